#include "kernels/threads.h"

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
  int64_t count, unit, units, ranges;
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
  return __atomic_load_n(value, __ATOMIC_SEQ_CST);
}

}  // namespace

// For a mutex or condition of any C library: what is built with musl's headers for Android must run with
// bionic, and with glibc in a test.
constexpr int kRoom = 64;

struct ThreadPool {
  union {
    pthread_mutex_t turn;  // held during a loop
    char turn_room[kRoom];
  };
  Loop loop;       // read by threads that have joined it
  int64_t next;    // first range that nobody has taken
  int state;       // 1 while threads may join the loop, plus 2 for each that has and not yet left
  uint64_t loops;  // begun so far
  int callers;     // of Call that have not yet dismissed the threads

  union {
    pthread_mutex_t mutex;  // held by threads that fall asleep or wake others
    char mutex_room[kRoom];
  };
  union {
    pthread_cond_t begun;
    char begun_room[kRoom];
  };
  uint64_t calls;  // of Call so far
  int sleeping;
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
    const int64_t range = __atomic_fetch_add(&pool->next, 1, __ATOMIC_RELAXED);
    if (range >= loop.ranges) return;
    const int64_t begin = loop.units * range / loop.ranges * loop.unit;
    const int64_t end = loop.units * (range + 1) / loop.ranges * loop.unit;
    loop.body(loop.arg, begin, end < loop.count ? end : loop.count, thread);
  }
}

void Wake(ThreadPool* pool) {
  pthread_mutex_lock(&pool->mutex);
  pthread_cond_broadcast(&pool->begun);
  pthread_mutex_unlock(&pool->mutex);
}

// Waits until a loop has begun after the `seen` first ones.
void AwaitLoop(ThreadPool* pool, uint64_t seen) {
  const auto has_work = [=] { return Load(&pool->loops) != seen || Load(&pool->is_stopping); };
  while (!has_work()) {
    for (int i = 0; i < kSpins && !has_work() && Load(&pool->callers) > 0; ++i) Pause();
    if (has_work()) return;
    pthread_mutex_lock(&pool->mutex);
    const uint64_t calls = pool->calls;
    // Before the last look for work: Begin counts its loop first and looks for sleepers then.
    __atomic_fetch_add(&pool->sleeping, 1, __ATOMIC_SEQ_CST);
    while (!has_work() && pool->calls == calls) pthread_cond_wait(&pool->begun, &pool->mutex);
    __atomic_fetch_sub(&pool->sleeping, 1, __ATOMIC_SEQ_CST);
    pthread_mutex_unlock(&pool->mutex);
  }
}

// Joins the loop, unless it has ended: a thread that wakes late has nothing left to do.
bool Join(ThreadPool* pool) {
  for (int state = Load(&pool->state); state & 1;) {
    if (__atomic_compare_exchange_n(&pool->state, &state, state + 2, true, __ATOMIC_ACQ_REL,
                                    __ATOMIC_ACQUIRE))
      return true;
  }
  return false;
}

void* Work(void* arg) {
  const auto& worker = *static_cast<const ThreadPool::Worker*>(arg);
  ThreadPool* pool = worker.pool;
  for (uint64_t seen = 0;;) {
    AwaitLoop(pool, seen);
    if (Load(&pool->is_stopping)) return nullptr;
    seen = Load(&pool->loops);
    if (!Join(pool)) continue;
    RunRanges(pool, pool->loop, worker.index);
    __atomic_fetch_sub(&pool->state, 2, __ATOMIC_RELEASE);
  }
}

void Begin(ThreadPool* pool, const Loop& loop) {
  pool->loop = loop;
  pool->next = 0;
  __atomic_store_n(&pool->state, 1, __ATOMIC_RELEASE);
  __atomic_fetch_add(&pool->loops, 1, __ATOMIC_SEQ_CST);
  if (Load(&pool->sleeping) > 0) Wake(pool);
}

void End(ThreadPool* pool) {
  __atomic_fetch_sub(&pool->state, 1, __ATOMIC_ACQ_REL);
  for (int i = 0; Load(&pool->state) > 0; ++i) i < kSpins ? Pause() : static_cast<void>(sched_yield());
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
  __atomic_store_n(&pool->is_stopping, true, __ATOMIC_SEQ_CST);
  Wake(pool);
  for (int i = 0; i < pool->worker_count; ++i) pthread_join(pool->workers[i].thread, nullptr);
  pthread_cond_destroy(&pool->begun);
  pthread_mutex_destroy(&pool->mutex);
  pthread_mutex_destroy(&pool->turn);
  free(pool);
}

void Call(ThreadPool* pool) {
  if (ThreadCount(pool) == 1) return;
  __atomic_fetch_add(&pool->callers, 1, __ATOMIC_SEQ_CST);
  if (Load(&pool->sleeping) == 0) return;
  pthread_mutex_lock(&pool->mutex);
  ++pool->calls;
  pthread_cond_broadcast(&pool->begun);
  pthread_mutex_unlock(&pool->mutex);
}

void Dismiss(ThreadPool* pool) {
  if (ThreadCount(pool) > 1) __atomic_fetch_sub(&pool->callers, 1, __ATOMIC_RELEASE);
}

uint64_t SharedLoops(const ThreadPool* pool) { return pool == nullptr ? 0 : Load(&pool->loops); }

int ThreadCount(const ThreadPool* pool) { return pool == nullptr ? 1 : pool->worker_count + 1; }

void ParallelFor(ThreadPool* pool, int64_t count, const Sharing& sharing, LoopBody body, const void* arg) {
  if (count <= 0) return;
  const int64_t threads = ThreadCount(pool), most = threads * kRangesPerThread;
  int64_t ranges = count / sharing.least < most ? count / sharing.least : most;
  if (ranges > threads) ranges -= ranges % threads;  // the same number for each
  if (threads == 1 || ranges < 2 || pthread_mutex_trylock(&pool->turn) != 0) {
    return body(arg, 0, count, 0);
  }
  const Loop loop = {body, arg, count, sharing.unit, (count + sharing.unit - 1) / sharing.unit, ranges};
  Begin(pool, loop);
  RunRanges(pool, loop, 0);
  End(pool);
  pthread_mutex_unlock(&pool->turn);
}

}  // namespace fsg
