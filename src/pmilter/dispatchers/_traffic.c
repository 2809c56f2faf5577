/* The two functions of traffic.py that are all system calls, for the compiled form on systems with epoll: docs/acceleration.md.

   They do what their Python twins there do, and are held to it by the same tests. What they save is the way through the
   interpreter's socket objects, which costs as much as all the rest of the loop once that is compiled. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <errno.h>
#include <limits.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#define MOST 64

static PyObject *str_fd;

/* A tuple of references that are taken over; NULL where one of them is. */
static PyObject *tuple_of(Py_ssize_t size, PyObject *first, PyObject *second, PyObject *third) {
    PyObject *tuple = first == NULL || second == NULL || (size == 3 && third == NULL) ? NULL : PyTuple_New(size);
    if (tuple == NULL) {
        Py_XDECREF(first);
        Py_XDECREF(second);
        Py_XDECREF(third);
        return NULL;
    }
    PyTuple_SET_ITEM(tuple, 0, first);
    PyTuple_SET_ITEM(tuple, 1, second);
    if (size == 3)
        PyTuple_SET_ITEM(tuple, 2, third);
    return tuple;
}

/* Append a new reference, which is taken over; fail where it is NULL. */
static int append(PyObject *list, PyObject *item) {
    if (item == NULL)
        return -1;
    int failed = PyList_Append(list, item);
    Py_DECREF(item);
    return failed;
}

static PyObject *os_error(int number) {
    return PyObject_CallFunction(PyExc_OSError, "is", number, strerror(number));
}

/* Receive from one line, and note what came of it. */
static int receive_from(PyObject *line, PyObject *key, int fd, char *buffer, Py_ssize_t size, PyObject *received,
                        PyObject *others) {
    ssize_t count = recv(fd, buffer, (size_t)size, 0);
    if (count >= 0)
        return append(received, tuple_of(2, Py_NewRef(line), PyBytes_FromStringAndSize(buffer, count), NULL));
    if (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)
        return 0; /* poll tells of it again */
    return append(others, tuple_of(2, Py_NewRef(key), os_error(errno), NULL));
}

static int wait_for(int epoll, double seconds, struct epoll_event *events, int most) {
    double milliseconds = seconds * 1000.0;
    int timeout = milliseconds <= 0 ? 0 : milliseconds >= INT_MAX ? INT_MAX : (int)milliseconds + 1;
    int count;
    Py_BEGIN_ALLOW_THREADS
    count = epoll_wait(epoll, events, most, timeout);
    Py_END_ALLOW_THREADS
    if (count >= 0)
        return count;
    if (errno != EINTR) {
        PyErr_SetFromErrno(PyExc_OSError);
        return -1;
    }
    return PyErr_CheckSignals() ? -1 : 0;
}

PyDoc_STRVAR(receive_doc, "receive(epoll, seconds, most, readers, size)\n--\n\n"
                          "Wait until something happens; see traffic.Traffic.receive.");

static PyObject *receive(PyObject *Py_UNUSED(module), PyObject *args) {
    int epoll, most;
    double seconds;
    PyObject *readers;
    Py_ssize_t size;
    if (!PyArg_ParseTuple(args, "idiO!n", &epoll, &seconds, &most, &PyDict_Type, &readers, &size))
        return NULL;
    if (most < 1 || most > MOST || size < 1) {
        PyErr_SetString(PyExc_ValueError, "most must be from 1 to 64, and size at least 1");
        return NULL;
    }
    struct epoll_event events[MOST];
    int count = wait_for(epoll, seconds, events, most);
    if (count < 0)
        return NULL;
    PyObject *received = PyList_New(0), *others = PyList_New(0);
    char *buffer = PyMem_Malloc((size_t)size);
    int failed = received == NULL || others == NULL;
    if (!failed && buffer == NULL) {
        PyErr_NoMemory();
        failed = 1;
    }
    for (int i = 0; i < count && !failed; i++) {
        int fd = events[i].data.fd;
        PyObject *key = PyLong_FromLong(fd);
        PyObject *line = key == NULL ? NULL : PyDict_GetItemWithError(readers, key);
        if (line != NULL) {
            Py_INCREF(line);
            failed = receive_from(line, key, fd, buffer, size, received, others);
            Py_DECREF(line);
        } else if (PyErr_Occurred()) {
            failed = 1;
        } else {
            failed = append(others, key == NULL ? NULL : tuple_of(2, Py_NewRef(key), Py_NewRef(Py_None), NULL));
        }
        Py_XDECREF(key);
    }
    PyMem_Free(buffer);
    PyObject *result = failed ? NULL : PyTuple_Pack(2, received, others);
    Py_XDECREF(received);
    Py_XDECREF(others);
    return result;
}

/* Send to one line, and note what it did not take. */
static int send_to(PyObject *line, PyObject *data, PyObject *unsent) {
    PyObject *number = PyObject_GetAttr(line, str_fd);
    if (number == NULL)
        return -1;
    long fd = PyLong_AsLong(number);
    Py_DECREF(number);
    if (fd == -1 && PyErr_Occurred())
        return -1;
    Py_ssize_t size = PyBytes_GET_SIZE(data);
    ssize_t sent;
    do {
        sent = send((int)fd, PyBytes_AS_STRING(data), (size_t)size, MSG_NOSIGNAL);
    } while (sent < 0 && errno == EINTR);
    if (sent == size)
        return 0;
    if (sent >= 0)
        return append(unsent, tuple_of(3, Py_NewRef(line),
                                       PyBytes_FromStringAndSize(PyBytes_AS_STRING(data) + sent, size - sent),
                                       Py_NewRef(Py_None)));
    int full = errno == EAGAIN || errno == EWOULDBLOCK;
    PyObject *failure = full ? Py_NewRef(Py_None) : os_error(errno);
    return append(unsent, tuple_of(3, Py_NewRef(line), Py_NewRef(data), failure));
}

PyDoc_STRVAR(send_doc, "send(messages)\n--\n\nSend to some sockets; see traffic.send.");

static PyObject *send_all(PyObject *Py_UNUSED(module), PyObject *messages) {
    if (!PyList_Check(messages)) {
        PyErr_SetString(PyExc_TypeError, "messages must be a list");
        return NULL;
    }
    PyObject *unsent = PyList_New(0);
    if (unsent == NULL)
        return NULL;
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(messages); i++) {
        PyObject *message = PyList_GET_ITEM(messages, i);
        if (!PyTuple_Check(message) || PyTuple_GET_SIZE(message) != 2 || !PyBytes_Check(PyTuple_GET_ITEM(message, 1))) {
            PyErr_SetString(PyExc_TypeError, "each message must be a line and bytes");
            Py_DECREF(unsent);
            return NULL;
        }
        if (send_to(PyTuple_GET_ITEM(message, 0), PyTuple_GET_ITEM(message, 1), unsent)) {
            Py_DECREF(unsent);
            return NULL;
        }
    }
    return unsent;
}

static PyMethodDef methods[] = {
    {"receive", receive, METH_VARARGS, receive_doc},
    {"send", send_all, METH_O, send_doc},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "pmilter.dispatchers._traffic",
    .m_doc = "System calls of a loop with many sockets.",
    .m_size = -1,
    .m_methods = methods,
};

PyMODINIT_FUNC PyInit__traffic(void) {
    str_fd = PyUnicode_InternFromString("fd");
    if (str_fd == NULL)
        return NULL;
    return PyModule_Create(&definition);
}
