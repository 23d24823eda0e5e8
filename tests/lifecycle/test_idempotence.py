"""A second deploy changes nothing."""

from sandbox.hosts import Host
from tests.lifecycle.conftest import Deployer


def test_a_second_deploy_reports_no_change(deployed: Host, deployer: Deployer) -> None:
    result = deployer.deploy(deployed)
    assert result.returncode == 0
    assert result.operations
    assert result.changed == []
