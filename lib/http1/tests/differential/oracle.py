"""Reads HTTP/1.1 with h11 (python3-h11), an implementation that shares nothing with ours.

A line in: "requests -", or "responses GET,HEAD", then the bytes in hexadecimal. A line out: what was found, separated by blanks:
  head=HEX@OFFSET   a head, its first line and fields one a line, ends at OFFSET
  end@OFFSET        the message ends
  close             its body ends with the connection
  opaque            from here on it is no HTTP
  more              the message is not complete
  error=HEX         it is refused, for this reason
"""

import sys

import h11


def canonical(event):
    if isinstance(event, h11.Request):
        first = b" ".join([event.method, event.target, event.http_version])
    else:
        first = b"%d %s" % (event.status_code, event.http_version)
    fields = [b"%s: %s" % (name, value) for name, value in event.headers]
    return b"\n".join([first, *fields]).hex()


def follow(connection, total, found, ended):
    """One message, interim responses included; gives what is behind it, nothing if no more can be found."""
    close = False
    while True:
        event = connection.next_event()
        rest = connection.trailing_data[0]
        offset = total - len(rest)
        if isinstance(event, (h11.Request, h11.Response, h11.InformationalResponse)):
            found.append("head=%s@%d" % (canonical(event), offset))
            framing = connection._reader
            close = type(framing).__name__ == "Http10Reader"
        elif isinstance(event, h11.EndOfMessage):
            found.append("close" if close else "end@%d" % offset)
            return b"" if close else rest
        elif event is h11.PAUSED:
            found.append("opaque")
            return b""
        elif event is h11.NEED_DATA:
            if not ended and close:
                connection.receive_data(b"")
                ended = True
                continue
            found.append("more")
            return b""


def begun(rest, found):
    """What follows the empty lines that RFC 9112 section 2.2 lets a recipient skip, and h11 does not; nothing if that is all."""
    left = rest
    while left.startswith(b"\r\n"):
        left = left[2:]
    if rest and (not left or left == b"\r"):
        found.append("more")
        return b""
    return left


def requests(stream):
    found, rest = [], stream
    while rest := begun(rest, found):
        connection = h11.Connection(h11.SERVER)
        connection.receive_data(rest)
        rest = guarded(connection, len(stream), found)
    return found or ["more"]


def responses(methods, stream):
    found, rest = [], stream
    for method in methods:
        rest = begun(rest, found)
        if not rest:
            break
        connection = h11.Connection(h11.CLIENT)
        fields = [("Host", "h"), ("Connection", "upgrade"), ("Upgrade", "x")]
        target = "h:1" if method == "CONNECT" else "/"
        connection.send(h11.Request(method=method, target=target, headers=fields))
        connection.send(h11.EndOfMessage())
        connection.receive_data(rest)
        rest = guarded(connection, len(stream), found)
    return found or ["more"]


def guarded(connection, total, found):
    try:
        return follow(connection, total, found, False)
    except h11.ProtocolError as error:
        found.append("error=" + str(error).encode().hex())
        return b""


for line in sys.stdin:
    kind, methods, text = line.rstrip("\n").split(" ")
    stream = bytes.fromhex(text)
    found = requests(stream) if kind == "requests" else responses(methods.split(","), stream)
    print(" ".join(found), flush=True)
