"""Steps of a deploy on the host.

Also the verbs that start, stop, recover and remove an instance.
"""
