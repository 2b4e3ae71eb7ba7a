# cython: language_level=3
"""The opening handshake (RFC 6455 §4), pure: a request's head in, the 101 or a refusal out.

Hostile values cost linear time: they are only ever split at commas or compared whole, and nothing that a client sent
is echoed. No extension is negotiated but that for compression, where that is wanted.
"""

from binascii import b2a_base64

try:
    from _sha1 import sha1  # hashlib takes 0.7 MB
except ImportError:
    from hashlib import sha1

cdef enum:
    KEY_DIGITS = 22  # of base64: 16 bytes

cdef bytes _GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
cdef bytes _UPGRADE = b"Upgrade: websocket\r\nConnection: Upgrade\r\n"
cdef bytes _ACCEPTED = b"HTTP/1.1 101 Switching Protocols\r\n" + _UPGRADE + b"Sec-WebSocket-Accept: "

cdef dict _ACTIONCABLE = {  # of @rails/actioncable or not, with an answer to pings or not
    (False, False): "actioncable",
    (False, True): "actioncable+pong",
    (True, False): "actioncable+stock",
    (True, True): "actioncable+stock+pong",
}


cdef class Accept:
    def __init__(self, bytes response not None, str dialect not None, bint deflates=False):
        self.response = response
        self.dialect = dialect
        self.deflates = deflates


cdef class Refusal:
    cdef readonly int status
    cdef readonly bytes headers
    cdef readonly str message

    def __init__(self, int status, bytes headers not None, str message not None):
        self.status = status
        self.headers = headers
        self.message = message


cpdef negotiate(bytes offers):
    cdef set tokens
    if not offers:
        return "default", None
    tokens = {token.strip(b" \t") for token in offers.split(b",")} - {b""}
    if all([token.startswith(b"anycable-token.") for token in tokens]):  # that is no protocol, and never echoed
        return "default", None
    return (
        _ACTIONCABLE[b"actioncable-unsupported" in tokens, b"actioncable-ext-pong" in tokens],
        b"actioncable-v1-json" if b"actioncable-v1-json" in tokens else None,
    )


cpdef check_origin(bytes origin, allowed_origins):
    if origin is None or allowed_origins is None or origin in allowed_origins:
        return None
    return Refusal(403, b"", "this Origin is not in allowed_origins")


def handshake(bytes method not None, str version not None, list headers not None, dict fields not None,
              allowed_origins, bint compression=False):
    cdef bint repeated = len(fields) != len(headers)
    cdef bytes key, response
    cdef bytes extension = None
    if repeated:
        # Lines of the same name are one list (RFC 9110 §5.3); what must not be repeated does not look right then.
        lines = {name: [] for name in fields}
        for name, value in headers:
            lines[name].append(value)
        fields = {name: b",".join(values) for name, values in lines.items()}

    if method != b"GET":
        return Refusal(405, b"Allow: GET\r\n", "the cable path takes WebSocket clients: GET only")
    if b"transfer-encoding" in fields or (b"content-length" in fields and fields[b"content-length"].strip(b"0")):
        return Refusal(400, b"", "a WebSocket handshake has no body")
    if not (_lists(fields.get(b"upgrade"), b"websocket") and _lists(fields.get(b"connection"), b"upgrade")):
        return Refusal(426, _UPGRADE, "this is a WebSocket endpoint: the request has no Connection: Upgrade with "
                                      "Upgrade: websocket (does a proxy remove them?)")
    if version != "1.1":
        return Refusal(400, b"", "a WebSocket handshake needs HTTP/1.1")
    if b"host" not in fields or (repeated and [name for name, _ in headers].count(b"host") > 1):
        return Refusal(400, b"", "a WebSocket handshake needs exactly one Host header")
    if fields.get(b"sec-websocket-version") != b"13":
        return Refusal(426, _UPGRADE + b"Sec-WebSocket-Version: 13\r\n", "Sec-WebSocket-Version must be 13")
    key = fields.get(b"sec-websocket-key")
    if key is None or not _is_key(key):
        return Refusal(400, b"", "exactly one Sec-WebSocket-Key with 16 bytes in base64 is needed")
    refusal = check_origin(fields.get(b"origin"), allowed_origins)
    if refusal is not None:
        return refusal

    dialect, protocol = negotiate(fields.get(b"sec-websocket-protocol", b""))
    response = _ACCEPTED + accept_key(key)
    if protocol is not None:
        response += b"\r\nSec-WebSocket-Protocol: " + protocol
    if compression and b"sec-websocket-extensions" in fields:
        from fastcable.deflate import WINDOW_BITS
        from fastcable.extensions import negotiate as negotiate_extension

        extension = negotiate_extension(fields[b"sec-websocket-extensions"], WINDOW_BITS)
        if extension is not None:
            response += b"\r\nSec-WebSocket-Extensions: " + extension
    return Accept(response + b"\r\n\r\n", dialect, extension is not None)


cpdef bytes accept_key(bytes key):
    return b2a_base64(sha1(key + _GUID).digest(), newline=False)


cdef bint _is_key(bytes key) noexcept:
    """Whether it is 16 bytes in base64."""
    cdef const unsigned char* digits = key
    cdef unsigned char digit
    if len(key) != KEY_DIGITS + 2 or not key.endswith(b"=="):
        return False
    for digit in digits[:KEY_DIGITS]:
        if not (b"A" <= digit <= b"Z" or b"a" <= digit <= b"z" or b"0" <= digit <= b"9" or digit in b"+/"):
            return False
    return digits[KEY_DIGITS - 1] in b"AQgw"  # it holds two bits


cdef bint _lists(bytes value, bytes token) except -1:
    """Whether a comma-separated list (RFC 9110 §5.6.1) has this token, in any case of letters."""
    if value is None:
        return False
    value = value.lower()
    return value == token or token in [member.strip(b" \t") for member in value.split(b",")]
