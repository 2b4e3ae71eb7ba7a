# cython: language_level=3
"""Who has to be looked at by when, without a timer per connection."""


cdef class Deadlines:
    """Items that all have the same allowance of `seconds` from when they were added; 0 means for ever.

    With one allowance the order of arrival is the order of deadlines, so a dict is the queue and only its head is ever
    looked at. A dict keeps the holes of removed entries, which a look at the head would cross each time: they are
    counted, and the dict is made anew when they outnumber what it holds.
    """

    def __init__(self, double seconds):
        self.seconds = seconds
        self.deadlines = {}
        self.holes = 0

    def __len__(self):
        return len(self.deadlines)

    def __contains__(self, item):
        return item in self.deadlines

    cpdef add(self, object item, double now):
        """Give `item` the whole allowance from `now` (monotonic seconds), also when it waits here already."""
        if self.seconds:
            if self.deadlines.pop(item, None) is not None:
                self.holes += 1
            self.deadlines[item] = now + self.seconds

    cpdef discard(self, object item):
        if self.deadlines.pop(item, None) is not None:
            self.holes += 1

    def expired(self, double now):
        """Take out the items whose allowance ended at or before `now`, the longest waiting first."""
        cdef list passed = []
        for item, deadline in self.deadlines.items():
            if deadline > now:
                break
            passed.append(item)
        for item in passed:
            del self.deadlines[item]
        self.holes += len(passed)
        if self.holes > len(self.deadlines):
            self.deadlines = dict(self.deadlines)
            self.holes = 0
        return passed
