#include "start.h"
#include "row.h"
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

pid_t start(const char *const *words, int output) {
    pid_t child = fork();
    REQUIRE(child >= 0);
    if (child == 0) {
        if (output >= 0)
            dup2(output, STDOUT_FILENO);
        execve(words[0], (char *const *)words, (char *const[]){NULL});
        perror(words[0]);
        _exit(127);
    }
    return child;
}

int finish(pid_t child) {
    int status;
    REQUIRE(waitpid(child, &status, 0) == child);
    REQUIRE(WIFEXITED(status));
    REQUIRE(WEXITSTATUS(status) != 127);
    return WEXITSTATUS(status);
}
