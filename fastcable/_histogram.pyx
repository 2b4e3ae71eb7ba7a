# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""How often something took how long."""

BOUNDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)


cdef class Histogram:
    def __init__(self):
        cdef int index
        for index in range(BOUNDS_COUNT):
            self.limits[index] = round(BOUNDS[index] * 1_000_000_000)

    cdef void add(self, int64_t nanoseconds, uint64_t times) noexcept:
        cdef int index = 0
        while index < BOUNDS_COUNT and nanoseconds > self.limits[index]:
            index += 1
        self.numbers[index] += times
        self.total += nanoseconds * <int64_t>times

    def observe(self, double seconds):
        self.add(<int64_t>(seconds * 1e9), 1)

    @property
    def counts(self):
        cdef int index
        return [self.numbers[index] for index in range(BOUNDS_COUNT + 1)]

    @property
    def seconds(self):
        return self.total / 1e9
