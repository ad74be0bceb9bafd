// Loops of all lengths on a pool of threads that is called, dismissed, left alone and made anew in between:
//
//   stress_threads THREADS LOOPS
//
// prints how many of the loops missed an iteration or ran one twice.
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "kernels/threads.h"

namespace {

// The sum of 1 to `count`, computed by the threads.
int64_t Sum(fsg::ThreadPool* pool, int64_t count, const fsg::Sharing& sharing) {
  int64_t sum = 0;
  fsg::ParallelFor(pool, count, sharing, [&](int64_t begin, int64_t end, int) {
    int64_t part = 0;
    for (; begin < end; ++begin) part += begin + 1;
    __atomic_fetch_add(&sum, part, __ATOMIC_RELAXED);
  });
  return sum;
}

}  // namespace

int main(int argument_count, char** arguments) {
  if (argument_count != 3) return 2;
  const int threads = atoi(arguments[1]), loops = atoi(arguments[2]);
  fsg::ThreadPool* pool = fsg::MakeThreadPool(threads);
  int wrong = 0;
  for (int i = 0; i < loops; ++i) {
    if (i % 7 == 0) fsg::Call(pool);
    const int64_t count = 1 + i % 97;
    wrong += Sum(pool, count, {1 + i % 5, 1 + i % 3}) != count * (count + 1) / 2;
    if (i % 7 == 3) fsg::Dismiss(pool);
    if (i % 1000 == 0) usleep(300);  // long enough for the threads to fall asleep
    if (i % 1001 == 1000) {          // a multiple of 7: the pool is not called
      fsg::FreeThreadPool(pool);
      pool = fsg::MakeThreadPool(threads);
    }
  }
  fsg::FreeThreadPool(pool);
  printf("%d\n", wrong);
  return wrong > 0;
}
