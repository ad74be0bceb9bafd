#ifndef FSG_BENCHMARK_FAIL_H_
#define FSG_BENCHMARK_FAIL_H_

// Ends the program with exit code 2 and one line on stderr.
[[noreturn]] void Fail(const char* format, ...) __attribute__((format(printf, 1, 2)));

#endif  // FSG_BENCHMARK_FAIL_H_
