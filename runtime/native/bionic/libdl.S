// The functions of Android's libdl.so that fsg uses, see libc.S.
.irp name, dlerror, dlopen, dlsym
.globl \name
.type \name, %function
\name:
.endr
