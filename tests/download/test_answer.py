import pytest
import requests

from esm1b.download.answer import Refusal, Session


def test_a_redirect_out_of_https() -> None:
    response = requests.Response()
    response.status_code = 302
    response.url = "https://ftp.uniprot.org/a"
    session = Session()
    for target, allowed in (
        ("https://ftp.ebi.ac.uk/a", True),
        ("/b", True),
        ("//ftp.ebi.ac.uk/a", True),
        ("http://ftp.uniprot.org/a", False),
        ("HTTP://ftp.uniprot.org/a", False),
    ):
        response.headers["Location"] = target
        if allowed:
            assert session.get_redirect_target(response) == target
        else:
            with pytest.raises(Refusal, match="expected HTTPS"):
                session.get_redirect_target(response)
