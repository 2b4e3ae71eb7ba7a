# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
"""What Redis answers: its protocol, RESP3 (and RESP2, which is a part of it), sans-I/O.

Bytes in, replies out. A reply is parsed in one go once it is there whole: where one ends early, `need` is the least
number of bytes that looking again takes, so that the pieces of a large value are joined once and not with each read.
What breaks the protocol, or goes beyond these limits, is told by `problem`, after the replies from before it.
"""

from cpython.bytes cimport PyBytes_FromStringAndSize

cdef enum:
    MOST_DEPTH = 8
    MOST_ITEMS = 1 << 16
    MOST_LINE = 1 << 16
    MOST_BYTES = 64 << 20  # twice what Redis lets wait for a subscriber by default

cdef object INCOMPLETE = object()
cdef object BROKEN = object()

Reply = object
"""For annotations: what exactly it may be stands in the stub."""

ctypedef const unsigned char* chars


class ReplyError(Exception):
    """A reply that says why a command failed: `WRONGPASS invalid username-password pair`, say."""


cdef class ReplyParser:
    cdef list pieces  # not parsed yet
    cdef Py_ssize_t held  # bytes in all pieces
    cdef Py_ssize_t need
    cdef Py_ssize_t at
    cdef readonly str problem

    def __init__(self):
        self.pieces = []
        self.held = self.need = 0
        self.problem = None

    def feed(self, bytes data not None):
        cdef list replies = []
        cdef Py_ssize_t end
        cdef Py_ssize_t start = 0
        cdef chars text
        if self.problem is not None:
            return replies
        if self.held:
            self.pieces.append(data)
            self.held += len(data)
            if self.held < self.need:
                return replies
            data = b"".join(self.pieces)
            self.pieces.clear()
        end = len(data)
        text = data
        self.need = 0
        while start < end:
            self.at = start
            value = self.parse(text, end, 0)
            if value is INCOMPLETE:
                break
            if value is BROKEN:
                return replies
            replies.append(value)
            start = self.at
        self.held = end - start
        if self.held:
            self.pieces.append(data[start:] if start else data)
            self.need = max(self.need - start, self.held + 1)
        return replies

    cdef object broken(self, str problem):
        self.problem = problem
        return BROKEN

    cdef object parse(self, chars text, Py_ssize_t end, int depth):
        """The reply that starts at `self.at`, which is then behind it."""
        cdef unsigned char kind = text[self.at]
        cdef Py_ssize_t line = self.at + 1
        cdef Py_ssize_t line_end = line
        cdef Py_ssize_t number = 0
        cdef Py_ssize_t index
        cdef list items
        while line_end < end and text[line_end] != b"\r":
            line_end += 1
        if line_end - line > MOST_LINE:
            return self.broken("a line has no end")
        if kind not in b"+-:$*_,#!=(%~>|":
            return self.broken("no reply starts so")
        if line_end + 1 >= end:
            return INCOMPLETE
        if text[line_end + 1] != b"\n":
            return self.broken("a line ends in half a line break")
        self.at = line_end + 2
        if kind == b"+":
            return PyBytes_FromStringAndSize(<const char*>text + line, line_end - line)
        if kind == b"-":
            return ReplyError(_decoded(text, line, line_end))
        if kind == b"_":
            return None
        if kind == b",":
            try:
                return float(PyBytes_FromStringAndSize(<const char*>text + line, line_end - line))
            except ValueError:
                return self.broken("a double is none")
        if kind == b"#":
            if line_end - line == 1 and (text[line] == b"t" or text[line] == b"f"):
                return text[line] == b"t"
            return self.broken("a boolean is none")
        if kind == b"(":
            return PyBytes_FromStringAndSize(<const char*>text + line, line_end - line)
        if not _read_number(text, line, line_end, &number):
            return self.broken("a number is none")
        if kind == b":":
            return number
        if number == -1 and (kind == b"$" or kind == b"*"):
            return None
        if number < 0:
            return self.broken("a length is negative")
        if kind == b"$" or kind == b"=" or kind == b"!":
            if number > MOST_BYTES:
                return self.broken(f"a value of {number} bytes is too large")
            line = self.at
            if line + number + 2 > end:
                self.need = line + number + 2
                return INCOMPLETE
            self.at = line + number + 2
            if text[self.at - 2] != b"\r" or text[self.at - 1] != b"\n":
                return self.broken("a value does not end where it should")
            if kind == b"!":
                return ReplyError(_decoded(text, line, line + number))
            return PyBytes_FromStringAndSize(<const char*>text + line, number)
        # Several: an array, a set, a map, a push, or attributes of the reply that follows, which nobody here asked for.
        if number > MOST_ITEMS or depth >= MOST_DEPTH:
            return self.broken("a reply has too many items or levels")
        if kind == b"%" or kind == b"|":
            number *= 2
        items = []
        for index in range(number):
            if self.at >= end:
                return INCOMPLETE
            value = self.parse(text, end, depth + 1)
            if value is INCOMPLETE or value is BROKEN:
                return value
            items.append(value)
        if kind == b"|":
            return self.parse(text, end, depth + 1) if self.at < end else INCOMPLETE
        return tuple(items) if kind == b">" else items


cdef str _decoded(chars text, Py_ssize_t start, Py_ssize_t end):
    return (<const char*>text)[start:end].decode("utf-8", "backslashreplace")


cdef bint _read_number(chars text, Py_ssize_t start, Py_ssize_t end, Py_ssize_t* number) noexcept nogil:
    cdef bint negative = start < end and text[start] == b"-"
    cdef Py_ssize_t value = 0
    if negative:
        start += 1
    if start == end or end - start > 18:
        return False
    while start < end:
        if not b"0" <= text[start] <= b"9":
            return False
        value = value * 10 + (text[start] - <unsigned char>b"0")
        start += 1
    number[0] = -value if negative else value
    return True
