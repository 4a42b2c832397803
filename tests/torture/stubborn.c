/* Lets writes to standard error, and to files whose names contain STUBBORN_FILES, fail, take a part or hang, at random:
   STUBBORN_SEED says how. To be preloaded. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

static int is_wanted(int file)
{
    char link[64], name[4096];
    const char *part = getenv("STUBBORN_FILES");
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, name, sizeof name - 1);
    if (length < 0)
        return 0;
    name[length] = 0;
    return file == STDERR_FILENO || (part != NULL && strstr(name, part) != NULL);
}

static unsigned roll(unsigned sides)
{
    static unsigned state;
    static int begun;
    if (!begun && getenv("STUBBORN_SEED") != NULL)
        state = (unsigned)atoi(getenv("STUBBORN_SEED"));
    begun = 1;
    return (unsigned)rand_r(&state) % sides;
}

ssize_t write(int file, const void *data, size_t size)
{
    ssize_t (*really)(int, const void *, size_t) = (ssize_t(*)(int, const void *, size_t))dlsym(RTLD_NEXT, "write");
    if (!is_wanted(file))
        return really(file, data, size);
    unsigned chance = roll(100);
    if (chance < 35) {
        static const int errors[] = {ENOSPC, EIO, EPIPE, EAGAIN, EDQUOT, EFBIG, EBADF};
        errno = errors[roll(sizeof errors / sizeof *errors)];
        return -1;
    }
    if (chance < 50 && size > 1)
        return really(file, data, 1 + roll((unsigned)size - 1));
    if (chance < 60)
        usleep(roll(200000));
    if (chance == 60)
        sleep(3600);
    return really(file, data, size);
}
