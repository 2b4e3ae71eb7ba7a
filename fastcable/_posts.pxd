cdef list check_batch(list messages, bytes text, Py_ssize_t max_batch, bint anycable)
cdef int check_message(message) except -1
cdef int check_options(dict members) except -1
cdef object in_batch(Py_ssize_t index, problem)
