# cython: language_level=3
# cython: boundscheck=False, wraparound=False, cdivision=True, nonecheck=False, initializedcheck=False
"""WebSocket frames (RFC 6455 §5), pure: bytes in, messages or a close code out; messages in, bytes out.

How the parser works
--------------------
Bytes are handed over with `feed` and read by `next`, which returns one event at a time. A frame goes through two
stages:

  header    Judged as soon as the bytes that show a violation are there: the first two for everything but the
            length, the length before the mask key. Limits are tested here, by subtraction, so what a peer
            *declares* never allocates anything. An incomplete header is kept in `head` (at most 14 bytes).
  payload   If the rest of a final frame has arrived, it is unmasked straight into the bytes object that is
            delivered, behind what was held of its message. Otherwise what has arrived is unmasked into `buffer`,
            which grows with the bytes received, or, for a control frame, into `control` (at most 125 bytes), so
            that control frames between two fragments leave the message alone.

Invariants: `message_opcode` is non-zero exactly from the first frame's header of a message until its delivery, `held`
is the number of its bytes in `buffer`, and `in_frame` says that a header was accepted whose payload has not been read.
A parser that is idle has none of these, so that one instance can serve any number of connections that are between
messages. One that has delivered a close frame or failed is never idle: it belongs to its connection, and drops
everything that still comes.

UTF-8 is tested once, when a text message is complete: a character may be split anywhere.

A message may be compressed (RFC 7692) if `inflate(payload, limit)` was given, which stops one byte behind the limit. It
is kept as it comes and inflated when it is complete, so fragments and what stands between them are dealt with as ever,
and nothing is inflated for a message that never ends.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.list cimport PyList_GET_ITEM, PyList_GET_SIZE
from cpython.mem cimport PyMem_Free, PyMem_Realloc
from libc.stdint cimport UINT32_MAX, uint32_t, uint64_t
from libc.string cimport memcpy

cdef extern from "Python.h":
    const Py_ssize_t PY_SSIZE_T_MAX

cdef enum:
    FIN = 0x80
    RSV = 0x70
    # What a compressed message may have beyond max_message_size: what does not get smaller gets larger, by an eighth
    # with the worst of codes.
    DEFLATED_SHIFT = 3
    DEFLATED_MORE = 64
    MASK = 0x80
    CONTROL = 0x08
    SMALLEST_BUFFER = 64

cdef uint64_t NOT_ASCII = 0x8080808080808080ULL


# --- bytes ------------------------------------------------------------------------------------------------------------


cdef void apply_mask(
    unsigned char* out, const unsigned char* data, Py_ssize_t size, const unsigned char* key, int phase
) noexcept nogil:
    """XOR `size` bytes with the key, of which the byte number `phase` comes first; writes exactly `size` bytes."""
    cdef unsigned char octets[8]
    cdef uint64_t pattern, word
    cdef Py_ssize_t i
    for i in range(8):
        octets[i] = key[(phase + i) & 3]
    memcpy(&pattern, octets, 8)
    i = 0
    while size - i >= 8:
        memcpy(&word, data + i, 8)
        word ^= pattern
        memcpy(out + i, &word, 8)
        i += 8
    while i < size:
        out[i] = data[i] ^ octets[i & 7]
        i += 1


cdef bint is_utf8(const unsigned char* text, Py_ssize_t size) noexcept nogil:
    """Whether the text is well-formed (Unicode, table 3-7): nothing overlong, no surrogates, at most U+10FFFF."""
    cdef const unsigned char* end = text + size
    cdef uint64_t words[2]
    cdef unsigned char lead, low, high
    cdef int following
    while text < end:
        if text[0] < 0x80:
            while end - text >= 16:
                memcpy(words, text, 16)
                if (words[0] | words[1]) & NOT_ASCII:
                    break
                text += 16
            while text < end and text[0] < 0x80:
                text += 1
            continue
        lead = text[0]
        low = 0x80
        high = 0xBF
        if lead < 0xC2 or lead > 0xF4:
            return False
        elif lead < 0xE0:
            following = 1
        elif lead < 0xF0:
            following = 2
            if lead == 0xE0:
                low = 0xA0
            elif lead == 0xED:
                high = 0x9F
        else:
            following = 3
            if lead == 0xF0:
                low = 0x90
            elif lead == 0xF4:
                high = 0x8F
        if end - text <= following or text[1] < low or text[1] > high:
            return False
        if following > 1 and text[2] & 0xC0 != 0x80:
            return False
        if following > 2 and text[3] & 0xC0 != 0x80:
            return False
        text += following + 1
    return True


cdef bint is_close_code(int code) noexcept nogil:
    """Whether the code may stand in a close frame (RFC 6455 §7.4 and the IANA registry)."""
    return 1000 <= code <= 1003 or 1007 <= code <= 1014 or 3000 <= code <= 4999


# --- encoding ---------------------------------------------------------------------------------------------------------


cdef Py_ssize_t header_size(Py_ssize_t length) noexcept nogil:
    """Bytes of the header of an unmasked frame with a payload of `length` bytes."""
    return 2 if length < 126 else 4 if length < 65536 else 10


cdef Py_ssize_t write_header(unsigned char* out, int opcode, Py_ssize_t length) noexcept nogil:
    """Write the header of an unmasked frame with FIN set; returns its size, `header_size(length)`."""
    cdef int i
    out[0] = <unsigned char> (FIN | opcode)
    if length < 126:
        out[1] = <unsigned char> length
        return 2
    if length < 65536:
        out[1] = 126
        out[2] = <unsigned char> (length >> 8)
        out[3] = <unsigned char> (length & 0xFF)
        return 4
    out[1] = 127
    for i in range(8):
        out[2 + i] = <unsigned char> ((<uint64_t> length >> (56 - 8 * i)) & 0xFF)
    return 10


cpdef bytes encode_frame(int opcode, bytes payload, bytes mask=None):
    """One frame with FIN set; `mask` is the 4-byte key of a client's frame. To the opcode of a compressed message
    DEFLATED is added.

    Raises ValueError for a reserved opcode, a control payload over 125 bytes or a mask that is not 4 bytes.
    """
    if payload is None:
        raise TypeError("payload must be bytes")
    cdef Py_ssize_t length = PyBytes_GET_SIZE(payload)
    cdef Py_ssize_t header = header_size(length)
    if opcode & ~(DEFLATED | 0x0F) or opcode & 7 > 2 or (opcode & DEFLATED and not 0 < opcode & 0x0F < CONTROL):
        raise ValueError(f"reserved opcode {opcode}")
    if opcode & CONTROL and length > MAX_CONTROL:
        raise ValueError(f"control frame of {length} bytes: at most {MAX_CONTROL}")
    if mask is not None and PyBytes_GET_SIZE(mask) != 4:
        raise ValueError(f"mask of {PyBytes_GET_SIZE(mask)} bytes: must be 4")
    cdef bytes frame = PyBytes_FromStringAndSize(NULL, header + (0 if mask is None else 4) + length)
    cdef unsigned char* out = <unsigned char*> PyBytes_AS_STRING(frame)
    write_header(out, opcode, length)
    if mask is None:
        memcpy(out + header, PyBytes_AS_STRING(payload), length)
    else:
        out[1] |= MASK
        memcpy(out + header, PyBytes_AS_STRING(mask), 4)
        apply_mask(
            out + header + 4, <const unsigned char*> PyBytes_AS_STRING(payload), length, out + header, 0
        )
    return frame


cpdef bytes encode_close(int code, str reason="", bytes mask=None):
    """A close frame (RFC 6455 §5.5.1); 1005 stands for "no code" and gives an empty payload.

    The reason is cut to 123 bytes at a character boundary. Raises ValueError for a code that is illegal on the wire.
    """
    if code == NO_STATUS:
        return encode_frame(CLOSE, b"", mask)
    if not is_close_code(code):
        raise ValueError(f"close code {code} is illegal on the wire")
    cdef bytes text = reason.encode()
    cdef Py_ssize_t size = PyBytes_GET_SIZE(text)
    cdef const unsigned char* octets = <const unsigned char*> PyBytes_AS_STRING(text)
    if size > MAX_CONTROL - 2:
        size = MAX_CONTROL - 2
        while octets[size] & 0xC0 == 0x80:
            size -= 1
    return encode_frame(CLOSE, code.to_bytes(2, "big") + text[:size], mask)


cpdef bytes join_text_frames(bytes before, list payloads, bytes after):
    """The unmasked text frames of `before + payload + after` for each payload, joined in one allocation."""
    if before is None or payloads is None or after is None:
        raise TypeError("before and after must be bytes, payloads a list")
    return join_frames(before, payloads, 0, PyList_GET_SIZE(payloads), after, NULL)


cdef bytes join_frames(
    bytes before, list payloads, Py_ssize_t start, Py_ssize_t stop, bytes after, uint32_t* ends
):
    """`join_text_frames` of payloads[start:stop], which must lie within the list.

    Unless it is NULL, ends[i] is set to the offset in the result where the frame of payloads[start + i] ends.
    Raises OverflowError where such an offset does not fit.
    """
    cdef Py_ssize_t before_size = PyBytes_GET_SIZE(before)
    cdef Py_ssize_t after_size = PyBytes_GET_SIZE(after)
    cdef const char* before_text = PyBytes_AS_STRING(before)
    cdef const char* after_text = PyBytes_AS_STRING(after)
    cdef Py_ssize_t total = 0
    cdef Py_ssize_t i, size, length
    cdef bytes payload, frames
    cdef unsigned char* out
    for i in range(start, stop):
        payload = <bytes?> <object> PyList_GET_ITEM(payloads, i)
        length = before_size + PyBytes_GET_SIZE(payload) + after_size
        total += header_size(length) + length
        if ends != NULL:
            if total > <Py_ssize_t> UINT32_MAX:
                raise OverflowError("joined frames of 4 GiB or more")
            ends[i - start] = <uint32_t> total
    frames = PyBytes_FromStringAndSize(NULL, total)
    out = <unsigned char*> PyBytes_AS_STRING(frames)
    for i in range(start, stop):
        payload = <bytes> <object> PyList_GET_ITEM(payloads, i)
        size = PyBytes_GET_SIZE(payload)
        out += write_header(out, TEXT, before_size + size + after_size)
        memcpy(out, before_text, before_size)
        out += before_size
        memcpy(out, PyBytes_AS_STRING(payload), size)
        out += size
        memcpy(out, after_text, after_size)
        out += after_size
    return frames


# --- parsing ----------------------------------------------------------------------------------------------------------


# What inflates is a function, which leads to no parser: the collector need not know.
@cython.no_gc
@cython.final
@cython.freelist(16)
cdef class FrameParser:
    """Incremental parser of one peer's frames; see the head of the module for how it works.

    `max_message_size` (bytes) and `max_fragments` (frames a message may consist of, empty ones included) are limits, 0
    for none: a peer that exceeds them fails with 1009 and 1008. `masked` says that the peer is a client, whose
    frames must be masked; a server's must not be. Without `binary`, a binary message fails with 1003.

    `inflate(payload, limit)` is for peers with whom compression was negotiated, None for others. It returns the message
    of a compressed payload, or more than `limit` bytes of it, and raises ValueError for one that cannot be inflated.
    """

    def __cinit__(self, Py_ssize_t max_message_size, Py_ssize_t max_fragments, *, bint masked=True, bint binary=False,
                  object inflate=None):
        if max_message_size < 0 or max_fragments < 0:
            raise ValueError("limits must not be negative")
        self.max_message_size = max_message_size or PY_SSIZE_T_MAX
        self.max_fragments = max_fragments or PY_SSIZE_T_MAX
        self.max_deflated_size = PY_SSIZE_T_MAX
        if max_message_size and max_message_size < PY_SSIZE_T_MAX // 2:
            self.max_deflated_size = max_message_size + (max_message_size >> DEFLATED_SHIFT) + DEFLATED_MORE
        self.masked = masked
        self.binary = binary
        self.inflate = inflate
        self.payload = b""
        self.reason = ""
        self.release_data()

    def __dealloc__(self):
        PyMem_Free(self.buffer)

    @property
    def idle(self):
        """Whether nothing is held: no message or frame under way, no unread bytes, not closed, not failed."""
        return self.is_idle()

    cdef bint is_idle(self) noexcept:
        return (
            self.message_opcode == 0
            and not self.in_frame
            and self.head_held == 0
            and self.position == self.end
            and self.state == PARSER_OPEN
        )

    cpdef object feed(self, bytes data):
        """Hand over newly received bytes; dropped after a close frame or a failure."""
        if data is None:
            raise TypeError("data must be bytes")
        if self.state != PARSER_OPEN:
            return
        if self.position != self.end:
            data = self.position[:self.end - self.position] + data
        self.data = data
        self.position = <const unsigned char*> PyBytes_AS_STRING(data)
        self.end = self.position + PyBytes_GET_SIZE(data)

    cpdef int next(self) except -2:
        """The next event: the opcode of a complete message or control frame, NEED_DATA or FAILED.

        TEXT, BINARY, PING, PONG, CLOSE: `payload` is set; the payload of TEXT is valid UTF-8.
        CLOSE: `code` and `reason` are set too, to 1005 and "" if the frame was empty; from then on always NEED_DATA.
        FAILED: `code` and `reason` say with what to fail the connection (RFC 6455 §7.1.7); from then on always FAILED.
        """
        cdef int taken
        if self.state != PARSER_OPEN:
            return FAILED if self.state == PARSER_FAILED else NEED_DATA
        while True:
            if not self.in_frame:
                taken = self.take_header()
                if taken < 0:
                    return FAILED
                if taken == 0:
                    return self.need_data()
            if self.fin and self.remaining <= self.end - self.position:
                return self.deliver()
            self.hold()
            if self.in_frame:
                return self.need_data()

    cdef int take_header(self) noexcept:
        """Read a header: 1, or 0 if it is incomplete and held, or FAILED."""
        cdef const unsigned char* head = self.position
        cdef Py_ssize_t have = self.end - self.position
        cdef Py_ssize_t size
        if have == 0:
            return 0
        if self.head_held:
            size = min(have, MAX_HEADER - self.head_held)
            memcpy(self.head + self.head_held, self.position, size)
            head = self.head
            have = self.head_held + size
        size = self.parse_header(head, have)
        if size < 0:
            return FAILED
        if size == 0:
            if self.head_held == 0:
                memcpy(self.head, self.position, have)
            self.head_held = have
            self.position = self.end
            return 0
        self.position += size - self.head_held
        self.head_held = 0
        return 1

    cdef Py_ssize_t parse_header(self, const unsigned char* head, Py_ssize_t have) noexcept:
        """Judge a header of which `have` bytes are there: its size, or 0 if more are needed, or FAILED."""
        cdef int opcode, i
        cdef bint fin
        cdef uint64_t length
        cdef Py_ssize_t most
        cdef Py_ssize_t size = 2
        cdef bint deflated = False
        if have < 2:
            return 0
        fin = head[0] & FIN != 0
        opcode = head[0] & 0x0F
        length = head[1] & 0x7F
        if head[0] & RSV:
            if self.inflate is None or head[0] & RSV != DEFLATED or opcode & CONTROL or opcode == CONTINUATION:
                return self.fail(PROTOCOL_ERROR, "reserved bit set")
            deflated = True
        if opcode & 7 > 2:
            return self.fail(PROTOCOL_ERROR, "reserved opcode")
        if (head[1] & MASK != 0) != self.masked:
            return self.fail(PROTOCOL_ERROR, "frame not masked" if self.masked else "frame masked")
        if opcode & CONTROL:
            if not fin:
                return self.fail(PROTOCOL_ERROR, "fragmented control frame")
            if length > MAX_CONTROL:
                return self.fail(PROTOCOL_ERROR, "control frame too long")
        elif opcode == CONTINUATION:
            if self.message_opcode == 0:
                return self.fail(PROTOCOL_ERROR, "continuation without a message")
            if self.fragments >= self.max_fragments:
                return self.fail(POLICY_VIOLATION, "too many fragments")
        elif self.message_opcode != 0:
            return self.fail(PROTOCOL_ERROR, "message inside a fragmented message")
        elif opcode == BINARY and not self.binary:
            return self.fail(UNSUPPORTED_DATA, "text frames only")

        if length == 126:
            size = 4
            if have < size:
                return 0
            length = <uint64_t> head[2] << 8 | head[3]
            if length < 126:
                return self.fail(PROTOCOL_ERROR, "length not minimal")
        elif length == 127:
            size = 10
            if have < size:
                return 0
            if head[2] & 0x80:
                return self.fail(PROTOCOL_ERROR, "length out of range")
            length = 0
            for i in range(2, 10):
                length = length << 8 | head[i]
            if length < 65536:
                return self.fail(PROTOCOL_ERROR, "length not minimal")
        if not opcode & CONTROL:
            most = self.max_message_size
            if deflated or (opcode == CONTINUATION and self.deflated):
                most = self.max_deflated_size
            if length > <uint64_t> (most - self.held):
                return self.fail(MESSAGE_TOO_BIG, "message too large")

        if self.masked:
            size += 4
            if have < size:
                return 0
            memcpy(self.key, head + size - 4, 4)
        self.in_frame = True
        self.fin = fin
        self.opcode = opcode
        self.phase = 0
        self.remaining = <Py_ssize_t> length
        if opcode == CONTINUATION:
            self.fragments += 1
        elif not opcode & CONTROL:
            self.message_opcode = opcode
            self.deflated = deflated
            self.fragments = 1
        return size

    cdef int deliver(self) except -2:
        """Read the rest of a final frame, all of which is there; returns the event."""
        cdef bint control = self.opcode & CONTROL != 0
        cdef int event = self.opcode if control else self.message_opcode
        cdef Py_ssize_t held = self.control_held if control else self.held
        cdef Py_ssize_t size = held + self.remaining
        cdef bytes payload = PyBytes_FromStringAndSize(NULL, size)
        cdef unsigned char* out = <unsigned char*> PyBytes_AS_STRING(payload)
        if held:
            memcpy(out, <unsigned char*> self.control if control else self.buffer, held)
        apply_mask(out + held, self.position, self.remaining, self.key, self.phase)
        self.position += self.remaining
        self.in_frame = False
        if control:
            self.control_held = 0
        else:
            self.message_opcode = 0
            self.release_buffer()
            if self.deflated:
                return self.deliver_inflated(event, payload)
        if event == TEXT and not is_utf8(out, size):
            return self.fail(INVALID_DATA, "invalid UTF-8")
        if event == CLOSE:
            return self.finish(payload)
        self.payload = payload
        return event

    cdef int deliver_inflated(self, int event, bytes payload) except -2:
        cdef bytes message
        try:
            message = self.inflate(payload, min(self.max_message_size, PY_SSIZE_T_MAX - 1))
        except ValueError:
            return self.fail(INVALID_DATA, "invalid compressed data")
        if PyBytes_GET_SIZE(message) > self.max_message_size:
            return self.fail(MESSAGE_TOO_BIG, "message too large")
        if event == TEXT and not is_utf8(<const unsigned char*> PyBytes_AS_STRING(message), PyBytes_GET_SIZE(message)):
            return self.fail(INVALID_DATA, "invalid UTF-8")
        self.payload = message
        return event

    cdef int hold(self) except -1:
        """Keep what has arrived of a frame that does not complete a message yet."""
        cdef Py_ssize_t size = min(self.remaining, self.end - self.position)
        if self.opcode & CONTROL:
            apply_mask(self.control + self.control_held, self.position, size, self.key, self.phase)
            self.control_held += size
        elif size:
            self.reserve(size)
            apply_mask(self.buffer + self.held, self.position, size, self.key, self.phase)
            self.held += size
        self.position += size
        self.phase = (self.phase + size) & 3
        self.remaining -= size
        if self.remaining == 0:
            self.in_frame = False
        return 0

    cdef int reserve(self, Py_ssize_t size) except -1:
        """Make room for `size` more bytes, growing by half, but never past the known end of the message."""
        cdef Py_ssize_t needed = self.held + size
        cdef Py_ssize_t capacity
        cdef void* buffer
        if needed <= self.capacity:
            return 0
        capacity = max(needed + (needed >> 1), SMALLEST_BUFFER)
        if self.fin:
            capacity = min(capacity, self.held + self.remaining)
        buffer = PyMem_Realloc(self.buffer, capacity)
        if buffer == NULL:
            raise MemoryError
        self.buffer = <unsigned char*> buffer
        self.capacity = capacity
        return 0

    cdef int finish(self, bytes payload) except -2:
        """Judge the payload of a close frame (RFC 6455 §5.5.1); returns the event."""
        cdef const unsigned char* octets = <const unsigned char*> PyBytes_AS_STRING(payload)
        cdef Py_ssize_t size = PyBytes_GET_SIZE(payload)
        cdef int code = NO_STATUS
        if size == 1:
            return self.fail(PROTOCOL_ERROR, "close frame of one byte")
        if size:
            code = octets[0] << 8 | octets[1]
            if not is_close_code(code):
                return self.fail(PROTOCOL_ERROR, "illegal close code")
            if not is_utf8(octets + 2, size - 2):
                return self.fail(INVALID_DATA, "invalid UTF-8")
        self.payload = payload
        self.code = code
        self.reason = payload[2:].decode()
        self.stop(PARSER_CLOSED)
        return CLOSE

    cdef int need_data(self) noexcept:
        self.payload = b""
        self.release_data()
        return NEED_DATA

    cdef int fail(self, CloseCode code, str reason) noexcept:
        self.code = code
        self.reason = reason
        self.payload = b""
        self.stop(PARSER_FAILED)
        return FAILED

    cdef void stop(self, ParserState state) noexcept:
        self.state = state
        self.release_data()
        self.release_buffer()

    cdef void release_data(self) noexcept:
        self.data = b""
        self.position = self.end = <const unsigned char*> PyBytes_AS_STRING(self.data)

    cdef void release_buffer(self) noexcept:
        PyMem_Free(self.buffer)
        self.buffer = NULL
        self.held = self.capacity = 0
