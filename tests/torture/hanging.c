/* Never answers for names that end in ".hangs", and not at once for those that end in ".slow". To be preloaded. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <netdb.h>
#include <string.h>
#include <unistd.h>

static int ends_with(const char *name, const char *end)
{
    size_t length = strlen(name), of_end = strlen(end);
    return length >= of_end && strcmp(name + length - of_end, end) == 0;
}

int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints, struct addrinfo **found)
{
    int (*really)(const char *, const char *, const struct addrinfo *, struct addrinfo **) =
        (int (*)(const char *, const char *, const struct addrinfo *, struct addrinfo **))dlsym(RTLD_NEXT, "getaddrinfo");
    if (node != NULL && !(hints != NULL && (hints->ai_flags & AI_NUMERICHOST))) {
        while (ends_with(node, ".hangs"))
            pause();
        if (ends_with(node, ".slow")) {
            usleep(300000);
            return EAI_AGAIN;
        }
    }
    return really(node, service, hints, found);
}
