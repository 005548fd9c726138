/* Other programs, from the directory that has them all. */
#pragma once
#include <sys/types.h>

/* Starts a program, with this file as its output unless that is -1. */
pid_t start(const char *const *words, int output);

/* Waits for it and returns its exit status; one ended by a signal fails the row. */
int finish(pid_t child);
