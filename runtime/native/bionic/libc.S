// The functions of Android's libc.so that fsg uses, for the linker alone: a library with these names and no code. All
// are in Android 6 (API level 23) and later. A name that is not here does not link: look into bionic's libc.map.txt.
.irp name, __errno, __libc_init, access, atof, atoll, calloc, clock_gettime, exit, fclose, fflush, fgets, fopen, \
  fprintf, fputc, fputs, fread, free, fwrite, get_nprocs, getauxval, getenv, malloc, memchr, memcmp, memcpy, memmove, \
  memset, nanosleep, pclose, popen, posix_memalign, printf, pthread_cond_broadcast, pthread_cond_destroy, \
  pthread_cond_init, pthread_cond_wait, pthread_create, pthread_join, pthread_mutex_destroy, pthread_mutex_init, \
  pthread_mutex_lock, pthread_mutex_trylock, pthread_mutex_unlock, pthread_sigmask, putchar, puts, qsort, realloc, \
  rename, sched_getaffinity, sched_setaffinity, sched_yield, sigfillset, snprintf, strcat, strchr, strcmp, strcspn, \
  strerror, strlen, strncmp, strnlen, strspn, strtol, strtoll, sysinfo, uname, vfprintf, vsnprintf
.globl \name
.type \name, %function
\name:
.endr

.bss
.irp name, stderr, stdout
.globl \name
.type \name, %object
.size \name, 8
\name: .skip 8
.endr
