"""HTTP by the standard library, for short calls: no redirect is followed, for who is asked is who the job names."""

from __future__ import annotations

import urllib.request


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect is a reply like others."""

    def redirect_request(self, *_: object) -> None:
        return None


def opener(*handlers: urllib.request.BaseHandler) -> urllib.request.OpenerDirector:
    """Make an opener with these handlers besides the usual ones; a redirect raises HTTPError."""
    return urllib.request.build_opener(_NoRedirect, *handlers)
