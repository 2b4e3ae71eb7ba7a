cimport cython
from libc.stdint cimport uint32_t

cpdef enum:
    # The opcodes of RFC 6455 §5.2; all but CONTINUATION are also events of FrameParser.next().
    CONTINUATION = 0
    TEXT = 1
    BINARY = 2
    CLOSE = 8
    PING = 9
    PONG = 10

cpdef enum:
    # RSV1: added to the opcode of a compressed message (RFC 7692 §6).
    DEFLATED = 0x40

cpdef enum:
    # The other events of FrameParser.next().
    NEED_DATA = 0
    FAILED = -1

cdef enum CloseCode:
    # RFC 6455 §7.4.1
    PROTOCOL_ERROR = 1002
    UNSUPPORTED_DATA = 1003
    NO_STATUS = 1005
    INVALID_DATA = 1007
    POLICY_VIOLATION = 1008
    MESSAGE_TOO_BIG = 1009

cdef enum:
    MAX_HEADER = 14
    MAX_CONTROL = 125

cdef enum ParserState:
    PARSER_OPEN
    PARSER_CLOSED
    PARSER_FAILED


cdef Py_ssize_t header_size(Py_ssize_t length) noexcept nogil
cdef Py_ssize_t write_header(unsigned char* out, int opcode, Py_ssize_t length) noexcept nogil

cpdef bytes encode_frame(int opcode, bytes payload, bytes mask=*)
cpdef bytes encode_close(int code, str reason=*, bytes mask=*)
cpdef bytes join_text_frames(bytes before, list payloads, bytes after)
cdef bytes join_frames(
    bytes before, list payloads, Py_ssize_t start, Py_ssize_t stop, bytes after, uint32_t* ends
)


@cython.no_gc
cdef class FrameParser:
    # Settings.
    cdef Py_ssize_t max_message_size
    cdef Py_ssize_t max_fragments
    cdef bint masked
    cdef Py_ssize_t max_deflated_size
    cdef bint binary
    cdef public object inflate
    # The bytes fed and not yet read.
    cdef bytes data
    cdef const unsigned char* position
    cdef const unsigned char* end
    # The last event.
    cdef readonly bytes payload
    cdef readonly int code
    cdef readonly str reason
    cdef ParserState state
    # The frame under way.
    cdef bint in_frame
    cdef bint fin
    cdef int opcode
    cdef int phase
    cdef Py_ssize_t remaining
    cdef unsigned char key[4]
    cdef unsigned char head[MAX_HEADER]
    cdef Py_ssize_t head_held
    cdef unsigned char control[MAX_CONTROL]
    cdef Py_ssize_t control_held
    # The message under way; its opcode is 0 between messages.
    cdef int message_opcode
    cdef bint deflated
    cdef Py_ssize_t fragments
    cdef unsigned char* buffer
    cdef Py_ssize_t held
    cdef Py_ssize_t capacity

    cpdef object feed(self, bytes data)
    cpdef int next(self) except -2
    cdef bint is_idle(self) noexcept

    cdef int take_header(self) noexcept
    cdef Py_ssize_t parse_header(self, const unsigned char* head, Py_ssize_t have) noexcept
    cdef int deliver(self) except -2
    cdef int deliver_inflated(self, int event, bytes payload) except -2
    cdef int hold(self) except -1
    cdef int reserve(self, Py_ssize_t size) except -1
    cdef int finish(self, bytes payload) except -2
    cdef int need_data(self) noexcept
    cdef int fail(self, CloseCode code, str reason) noexcept
    cdef void stop(self, ParserState state) noexcept
    cdef void release_data(self) noexcept
    cdef void release_buffer(self) noexcept
