from fastcable._request cimport Request


cdef class Endpoints:
    cdef object hub
    cdef bytes cable_path
    cdef bytes broadcast_path
    cdef bytes api_path
    cdef object allowed_origins
    cdef bint compression
    cdef object broadcasts
    cdef public object publish
    cdef dict files
    cdef public object reports

    cpdef begin(self, Request request, peer)
    cdef object report(self, Request request, peer)
