// This room is for what a program for Android needs where there is no NDK: its first instructions, and what
// lies between musl's headers, with which it is compiled, and Android's C library, bionic. On 64-bit ARM both
// have the types and constants that fsg uses in common: no sysconf, no locales, no jmp_buf.
extern "C" {

int Main(int count, char** values) __asm__("main");

// Of bionic: where errno is, and what ends with exit(main(...)). The linker has run all constructors before;
// the structors are null, for the program has no destructors. Newer systems have more members than the first
// three.
int* __errno();
[[noreturn]] void __libc_init(void* arguments, void (*on_exit)(), int (*run)(int, char**, char**),
                              void* const* structors);

int* __errno_location() { return __errno(); }

[[noreturn]] __attribute__((used)) void StartBionic(void* arguments) {
  static void* const structors[16] = {};
  const auto run = [](int count, char** values, char**) { return Main(count, values); };
  __libc_init(arguments, nullptr, run, structors);
}
}

// The stack pointer is where the system put the arguments.
__asm__(
    ".globl _start\n"
    ".type _start, %function\n"
    "_start:\n"
    "  mov x29, #0\n"
    "  mov x30, #0\n"
    "  mov x0, sp\n"
    "  b StartBionic\n"
    ".size _start, . - _start\n");
