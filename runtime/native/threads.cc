#include "threads.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>

namespace fsg {
namespace {

// How often a thread looks for the next loop before it sleeps: for tens of microseconds, the pause between
// two layers.
constexpr int kSpins = 2000;
constexpr int kRangesPerThread = 4;  // evens out threads of unequal speed

struct Loop {
  LoopBody body;
  const void* arg;
  int64_t count, step;
};

void Pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

template <typename T>
T Load(const T* value) {
  return __atomic_load_n(value, __ATOMIC_ACQUIRE);
}

}  // namespace

struct ThreadPool {
  pthread_mutex_t turn;   // held during a loop
  pthread_mutex_t mutex;  // guards everything below but `next`
  pthread_cond_t begun;
  Loop loop;
  int64_t next;    // first iteration that nobody has taken
  uint64_t loops;  // begun so far; also read without the mutex
  bool is_open;    // threads may join the loop
  int active;      // threads that have joined and not yet left; also read without the mutex
  int sleeping;
  uint64_t calls;  // of Call so far
  int callers;     // that have not yet dismissed the threads; read without the mutex
  bool is_stopping;
  int worker_count;
  struct Worker {
    pthread_t thread;
    ThreadPool* pool;
    int index;
  } workers[];
};

namespace {

void RunRanges(ThreadPool* pool, const Loop& loop, int thread) {
  for (;;) {
    const int64_t begin = __atomic_fetch_add(&pool->next, loop.step, __ATOMIC_RELAXED);
    if (begin >= loop.count) return;
    loop.body(loop.arg, begin, begin + loop.step < loop.count ? begin + loop.step : loop.count, thread);
  }
}

// Waits until a loop has begun after the `seen` first ones. Returns with the mutex held.
void AwaitLoop(ThreadPool* pool, uint64_t seen) {
  for (;;) {
    for (int i = 0; i < kSpins && Load(&pool->loops) == seen && Load(&pool->callers) > 0; ++i) Pause();
    pthread_mutex_lock(&pool->mutex);
    const uint64_t calls = pool->calls;
    const auto has_work = [&] { return pool->loops != seen || pool->is_stopping; };
    ++pool->sleeping;
    while (!has_work() && pool->calls == calls) pthread_cond_wait(&pool->begun, &pool->mutex);
    --pool->sleeping;
    if (has_work()) return;
    pthread_mutex_unlock(&pool->mutex);
  }
}

void* Work(void* arg) {
  const auto& worker = *static_cast<const ThreadPool::Worker*>(arg);
  ThreadPool* pool = worker.pool;
  for (uint64_t seen = 0;;) {
    AwaitLoop(pool, seen);
    const bool is_stopping = pool->is_stopping, joins = pool->is_open && !is_stopping;
    const Loop loop = pool->loop;
    seen = pool->loops;
    if (joins) __atomic_fetch_add(&pool->active, 1, __ATOMIC_RELAXED);
    pthread_mutex_unlock(&pool->mutex);
    if (is_stopping) return nullptr;
    if (!joins) continue;
    RunRanges(pool, loop, worker.index);
    __atomic_fetch_sub(&pool->active, 1, __ATOMIC_RELEASE);
  }
}

void Begin(ThreadPool* pool, const Loop& loop) {
  pthread_mutex_lock(&pool->mutex);
  pool->loop = loop;
  pool->next = 0;
  pool->is_open = true;
  __atomic_store_n(&pool->loops, pool->loops + 1, __ATOMIC_RELEASE);
  if (pool->sleeping > 0) pthread_cond_broadcast(&pool->begun);
  pthread_mutex_unlock(&pool->mutex);
}

// Only threads that have joined are waited for: one that wakes late has nothing left to do and is shut out.
void End(ThreadPool* pool) {
  pthread_mutex_lock(&pool->mutex);
  pool->is_open = false;
  pthread_mutex_unlock(&pool->mutex);
  for (int i = 0; Load(&pool->active) > 0; ++i) i < kSpins ? Pause() : static_cast<void>(sched_yield());
}

// Workers leave signals to the program's own threads.
void StartWorkers(ThreadPool* pool, int count) {
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  for (int i = 0; i < count; ++i) {
    ThreadPool::Worker* worker = &pool->workers[i];
    *worker = {pthread_t{}, pool, i + 1};
    if (pthread_create(&worker->thread, nullptr, Work, worker) != 0) break;
    ++pool->worker_count;
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

}  // namespace

ThreadPool* MakeThreadPool(int threads) {
  const int workers = threads > kMaxThreads ? kMaxThreads - 1 : threads < 1 ? 0 : threads - 1;
  const size_t bytes = sizeof(ThreadPool) + sizeof(ThreadPool::Worker) * static_cast<size_t>(workers);
  auto* pool = static_cast<ThreadPool*>(calloc(1, bytes));
  if (pool == nullptr) return nullptr;
  pthread_mutex_init(&pool->turn, nullptr);
  pthread_mutex_init(&pool->mutex, nullptr);
  pthread_cond_init(&pool->begun, nullptr);
  StartWorkers(pool, workers);
  return pool;
}

void FreeThreadPool(ThreadPool* pool) {
  if (pool == nullptr) return;
  pthread_mutex_lock(&pool->mutex);
  pool->is_stopping = true;
  pthread_cond_broadcast(&pool->begun);
  pthread_mutex_unlock(&pool->mutex);
  for (int i = 0; i < pool->worker_count; ++i) pthread_join(pool->workers[i].thread, nullptr);
  pthread_cond_destroy(&pool->begun);
  pthread_mutex_destroy(&pool->mutex);
  pthread_mutex_destroy(&pool->turn);
  free(pool);
}

void Call(ThreadPool* pool) {
  if (ThreadCount(pool) == 1) return;
  pthread_mutex_lock(&pool->mutex);
  ++pool->calls;
  __atomic_fetch_add(&pool->callers, 1, __ATOMIC_RELEASE);
  if (pool->sleeping > 0) pthread_cond_broadcast(&pool->begun);
  pthread_mutex_unlock(&pool->mutex);
}

void Dismiss(ThreadPool* pool) {
  if (ThreadCount(pool) > 1) __atomic_fetch_sub(&pool->callers, 1, __ATOMIC_RELEASE);
}

uint64_t SharedLoops(const ThreadPool* pool) { return pool == nullptr ? 0 : Load(&pool->loops); }

int ThreadCount(const ThreadPool* pool) { return pool == nullptr ? 1 : pool->worker_count + 1; }

void ParallelFor(ThreadPool* pool, int64_t count, int64_t grain, LoopBody body, const void* arg) {
  if (count <= 0) return;
  const int threads = ThreadCount(pool);
  if (threads == 1 || count <= grain || pthread_mutex_trylock(&pool->turn) != 0) {
    return body(arg, 0, count, 0);
  }
  const int64_t grains = (count + grain - 1) / grain, ranges = int64_t{threads} * kRangesPerThread;
  const Loop loop = {body, arg, count, (grains + ranges - 1) / ranges * grain};
  Begin(pool, loop);
  RunRanges(pool, loop, 0);
  End(pool);
  pthread_mutex_unlock(&pool->turn);
}

}  // namespace fsg
