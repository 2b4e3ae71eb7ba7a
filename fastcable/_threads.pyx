# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Threads that help the event loop's thread with work that needs no Python.

Theory of operation
-------------------
A job consists of many small pieces, and each thread that has done one takes the next. `run` announces the job, and then
the caller works, too. It waits only for helpers that have begun, and for these without idling: as long as one of them
is in the middle of a piece, which may take milliseconds if something else has its core, the caller goes on with the
next piece, even when the time is over. Who has not begun by then finds nothing announced any more and sleeps on. So
where all cores are busy a job takes hardly longer than without helpers.

When `run` returns no helper is at work: the caller may free, close and change what the job was about.

The helpers are started when there is work for them for the first time, thus after the process forked; a child of it has
none, and starts its own. They take no signals, allocate nothing and never touch Python: asleep, they may be left to the
end of the process.
"""

from libc.stdlib cimport calloc, free

import logging

logger = logging.getLogger("fastcable")

cdef extern from "<pthread.h>" nogil:
    ctypedef struct pthread_t:
        pass
    ctypedef struct pthread_attr_t:
        pass
    ctypedef struct pthread_mutex_t:
        pass
    ctypedef struct pthread_cond_t:
        pass
    int pthread_attr_init(pthread_attr_t*)
    int pthread_attr_setstacksize(pthread_attr_t*, size_t)
    int pthread_attr_destroy(pthread_attr_t*)
    int pthread_create(pthread_t*, const pthread_attr_t*, void* (*)(void*) noexcept nogil, void*)
    int pthread_join(pthread_t, void**)
    int pthread_setname_np(pthread_t, const char*)
    int pthread_mutex_init(pthread_mutex_t*, void*)
    int pthread_mutex_lock(pthread_mutex_t*)
    int pthread_mutex_unlock(pthread_mutex_t*)
    int pthread_mutex_destroy(pthread_mutex_t*)
    int pthread_cond_init(pthread_cond_t*, void*)
    int pthread_cond_wait(pthread_cond_t*, pthread_mutex_t*)
    int pthread_cond_signal(pthread_cond_t*)
    int pthread_cond_broadcast(pthread_cond_t*)
    int pthread_cond_destroy(pthread_cond_t*)

cdef extern from "<signal.h>" nogil:
    ctypedef struct sigset_t:
        pass
    int sigfillset(sigset_t*)
    int pthread_sigmask(int, const sigset_t*, sigset_t*)
    enum:
        SIG_SETMASK

cdef extern from "<unistd.h>" nogil:
    ctypedef int pid_t
    pid_t getpid()

cdef extern from *:
    int load "__atomic_load_n" (int*, int) nogil
    int fetch_add "__atomic_fetch_add" (int*, int, int) nogil
    enum:
        RELAXED "__ATOMIC_RELAXED"

cdef enum:
    STACK = 65536


cdef struct Crew:
    pid_t pid  # the process that it was started in
    int count
    pthread_t threads[MOST_THREADS]
    pthread_mutex_t lock  # for all below
    pthread_cond_t called
    pthread_cond_t finished
    bint ending
    Work work
    void* job
    int wanted  # helpers that may still begin
    int begun
    int busy  # helpers at work; read without the lock, too


cdef void* help(void* argument) noexcept nogil:
    """The life of one helper."""
    cdef Crew* crew = <Crew*>argument
    cdef int number
    pthread_mutex_lock(&crew.lock)
    while not crew.ending:
        if crew.wanted == 0:
            pthread_cond_wait(&crew.called, &crew.lock)
            continue
        crew.wanted -= 1
        fetch_add(&crew.busy, 1, RELAXED)
        crew.begun += 1
        number = crew.begun
        pthread_mutex_unlock(&crew.lock)
        while crew.work(crew.job, number) == GO_ON:
            pass
        pthread_mutex_lock(&crew.lock)
        if fetch_add(&crew.busy, -1, RELAXED) == 1:
            pthread_cond_signal(&crew.finished)
    pthread_mutex_unlock(&crew.lock)
    return NULL


cdef class ThreadPool:
    """`size` threads, the caller's included, that share one job at a time.

    One of them is called for each `share` items of a job, the caller's for the first: to wake one costs time, too.
    """

    def __init__(self, int size):
        self.size = min(size, MOST_THREADS)
        self.share = 1024

    def __dealloc__(self):
        self.stop()

    @property
    def running(self) -> int:
        """How many helpers there are in this process now."""
        return self.crew.count if self.crew is not NULL and self.crew.pid == getpid() else 0

    cdef int helpers(self, Py_ssize_t items) except -1:
        """How many helpers to call for a job of so many items; starts them if need be."""
        cdef Py_ssize_t wanted = items // self.share - 1
        if self.size < 2 or wanted < 1:
            return 0
        if self.crew is NULL or self.crew.pid != getpid():
            self.start()
        return min(wanted, self.crew.count)

    cdef int start(self) except -1:
        cdef Crew* crew
        cdef pthread_attr_t attributes
        cdef sigset_t every, before
        free(self.crew)  # the parent's, if any: its threads are not in this process
        self.crew = crew = <Crew*>calloc(1, sizeof(Crew))
        if crew is NULL:
            raise MemoryError()
        crew.pid = getpid()
        pthread_mutex_init(&crew.lock, NULL)
        pthread_cond_init(&crew.called, NULL)
        pthread_cond_init(&crew.finished, NULL)
        pthread_attr_init(&attributes)
        pthread_attr_setstacksize(&attributes, STACK)
        sigfillset(&every)
        pthread_sigmask(SIG_SETMASK, &every, &before)
        while crew.count < self.size - 1:
            if pthread_create(&crew.threads[crew.count], &attributes, help, crew):
                logger.warning("fanout_threads: the system grants %d of %d threads", crew.count + 1, self.size)
                break
            pthread_setname_np(crew.threads[crew.count], "fanout")
            crew.count += 1
        pthread_sigmask(SIG_SETMASK, &before, NULL)
        pthread_attr_destroy(&attributes)
        return 0

    cdef void run(self, Work work, void* job, int helpers) noexcept nogil:
        """Have the caller and up to `helpers` others, which `self.helpers` has granted, do a job."""
        cdef Crew* crew = self.crew
        cdef int _
        cdef Progress progress
        pthread_mutex_lock(&crew.lock)
        crew.work = work
        crew.job = job
        crew.wanted = helpers
        crew.begun = 0
        pthread_mutex_unlock(&crew.lock)
        for _ in range(helpers):
            pthread_cond_signal(&crew.called)
        progress = GO_ON
        while progress == GO_ON or (progress == TIME_OVER and load(&crew.busy, RELAXED)):
            progress = work(job, 0)
        pthread_mutex_lock(&crew.lock)
        crew.wanted = 0
        while crew.busy:
            pthread_cond_wait(&crew.finished, &crew.lock)
        pthread_mutex_unlock(&crew.lock)

    def stop(self):
        """End the helpers; a later job would start them again."""
        cdef Crew* crew = self.crew
        cdef int index
        self.crew = NULL
        if crew is NULL:
            return
        if crew.pid == getpid():
            with nogil:
                pthread_mutex_lock(&crew.lock)
                crew.ending = True
                pthread_mutex_unlock(&crew.lock)
                pthread_cond_broadcast(&crew.called)
                for index in range(crew.count):
                    pthread_join(crew.threads[index], NULL)
            pthread_cond_destroy(&crew.called)
            pthread_cond_destroy(&crew.finished)
            pthread_mutex_destroy(&crew.lock)
        free(crew)
