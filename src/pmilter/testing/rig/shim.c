/*
 * Preloaded into a private Sendmail, so that it needs nothing from the machine it runs on: no syslog daemon, no
 * name server, no fully qualified host name, no /etc/hosts.allow. LOG_FILE and HOST_NAME come from the compiler's
 * command line, since Sendmail empties its environment.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* syslog: one line a call at the end of the file; one write, so that processes do not mix their lines. */

static void log_line(const char *format, va_list arguments)
{
    char line[8192];
    int saved = errno; /* the caller's; also what %m means */
    int size = snprintf(line, sizeof line, "sendmail[%d]: ", (int)getpid());
    int room = (int)sizeof line - size - 1;
    int text = vsnprintf(line + size, (size_t)room, format, arguments);
    int file = open(LOG_FILE, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0666);

    if (text >= room)
        text = room - 1;
    size += text > 0 ? text : 0;
    line[size++] = '\n';
    if (file >= 0) {
        if (write(file, line, (size_t)size) < 0)
            size = 0; /* nobody is left to tell */
        close(file);
    }
    errno = saved;
}

void vsyslog(int priority, const char *format, va_list arguments)
{
    (void)priority;
    log_line(format, arguments);
}

void __vsyslog_chk(int priority, int flag, const char *format, va_list arguments)
{
    (void)priority, (void)flag;
    log_line(format, arguments);
}

void syslog(int priority, const char *format, ...)
{
    va_list arguments;

    (void)priority;
    va_start(arguments, format);
    log_line(format, arguments);
    va_end(arguments);
}

void __syslog_chk(int priority, int flag, const char *format, ...)
{
    va_list arguments;

    (void)priority, (void)flag;
    va_start(arguments, format);
    log_line(format, arguments);
    va_end(arguments);
}

/* Names: addresses as text, localhost and our own host; all else is unknown, and no query leaves the machine. */

int gethostname(char *name, size_t size)
{
    if (size <= strlen(HOST_NAME)) {
        errno = ENAMETOOLONG;
        return -1;
    }
    strcpy(name, HOST_NAME);
    return 0;
}

static struct hostent *answer(const char *name, int family, const void *address)
{
    static char text[256], bytes[16], *none[] = {NULL}, *addresses[] = {bytes, NULL};
    static struct hostent host;

    host.h_length = family == AF_INET6 ? 16 : 4;
    memcpy(bytes, address, (size_t)host.h_length);
    snprintf(text, sizeof text, "%s", name);
    host.h_name = text;
    host.h_aliases = none;
    host.h_addrtype = family;
    host.h_addr_list = addresses;
    return &host;
}

static struct hostent *unknown(void)
{
    h_errno = HOST_NOT_FOUND;
    return NULL;
}

struct hostent *gethostbyname2(const char *name, int family)
{
    char address[16];

    if (inet_pton(family, name, address) == 1)
        return answer(name, family, address);
    if (strcasecmp(name, "localhost") != 0 && strcasecmp(name, HOST_NAME) != 0)
        return unknown();
    inet_pton(family, family == AF_INET6 ? "::1" : "127.0.0.1", address);
    return answer(name, family, address);
}

struct hostent *gethostbyname(const char *name)
{
    return gethostbyname2(name, AF_INET);
}

struct hostent *gethostbyaddr(const void *address, socklen_t size, int family)
{
    static const char mapped[] = "\0\0\0\0\0\0\0\0\0\0\377\377\177\0\0\1";
    int loopback = size == 16 ? memcmp(address, &in6addr_loopback, 16) == 0 || memcmp(address, mapped, 16) == 0
                              : memcmp(address, mapped + 12, 4) == 0;

    return loopback ? answer("localhost", family, address) : unknown();
}

static int no_answer(void)
{
    h_errno = HOST_NOT_FOUND;
    return -1;
}

int res_query(const char *name, int class, int type, unsigned char *buffer, int size)
{
    (void)name, (void)class, (void)type, (void)buffer, (void)size;
    return no_answer();
}

int res_search(const char *name, int class, int type, unsigned char *buffer, int size)
{
    (void)name, (void)class, (void)type, (void)buffer, (void)size;
    return no_answer();
}

int res_querydomain(const char *name, const char *domain, int class, int type, unsigned char *buffer, int size)
{
    (void)name, (void)domain, (void)class, (void)type, (void)buffer, (void)size;
    return no_answer();
}

/* TCP wrappers: let the loopback in, whatever the machine's files say. */
int hosts_ctl(char *daemon, char *name, char *address, char *user)
{
    (void)daemon, (void)name, (void)address, (void)user;
    return 1;
}

/* All processes stay in the group by which the rig ends them. */
pid_t setsid(void)
{
    return getpid();
}
