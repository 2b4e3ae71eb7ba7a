from fastcable._request cimport Request


cdef class Endpoints:
    cdef object hub
    cdef bytes cable_path
    cdef bytes broadcast_path
    cdef bytes api_path
    cdef object allowed_origins
    cdef object broadcasts
    cdef public object publish
    cdef dict files

    cpdef begin(self, Request request, peer)
