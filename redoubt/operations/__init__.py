"""Operations: each compares one part of a host with the settings and changes what differs."""
