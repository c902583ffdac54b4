"""The command line in a test."""

from limner.app.cli import main as cli


def run(capsys, *arguments):
    status = cli.main(arguments)
    out = capsys.readouterr()
    assert "Traceback" not in out.err
    return status, out.out, out.err
