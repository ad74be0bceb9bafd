// A pool of threads for loops whose iterations are independent. A loop gives the same result on any number of
// threads. By hand, since LiteRT shows a delegate no pool of its own, and OpenMP is on few boards.
#ifndef FSG_KERNELS_THREADS_H_
#define FSG_KERNELS_THREADS_H_

#include <stdint.h>

namespace fsg {

constexpr int kMaxThreads = 256;

struct ThreadPool;

// `threads` counts the one that calls ParallelFor; fewer run if the system grants fewer. nullptr if memory is
// short.
ThreadPool* MakeThreadPool(int threads);
void FreeThreadPool(ThreadPool* pool);
int ThreadCount(const ThreadPool* pool);  // 1 for nullptr

// Around several loops: wakes the threads, so that the first loop finds them ready, and lets them sleep at
// once afterwards, so that others can have the processors. Loops need neither.
void Call(ThreadPool* pool);
void Dismiss(ThreadPool* pool);

uint64_t SharedLoops(const ThreadPool* pool);  // so far

// How a loop is divided.
struct Sharing {
  int64_t unit;   // ranges are multiples of as many iterations, but for the last
  int64_t least;  // ranges have about as many at least; a loop of fewer than two stays on the calling thread
};

// Calls body(arg, begin, end, thread) until the ranges have covered [0, count). `thread` is below
// ThreadCount, and no two calls that run at once are given the same: it selects scratch memory. The threads
// serve one loop at a time; another that begins meanwhile runs on its calling thread alone.
using LoopBody = void (*)(const void* arg, int64_t begin, int64_t end, int thread);
void ParallelFor(ThreadPool* pool, int64_t count, const Sharing& sharing, LoopBody body, const void* arg);

// The same for a callable `body(begin, end, thread)`.
template <typename Body>
void ParallelFor(ThreadPool* pool, int64_t count, const Sharing& sharing, const Body& body) {
  const LoopBody call = [](const void* arg, int64_t begin, int64_t end, int thread) {
    (*static_cast<const Body*>(arg))(begin, end, thread);
  };
  ParallelFor(pool, count, sharing, call, &body);
}

}  // namespace fsg

#endif  // FSG_KERNELS_THREADS_H_
