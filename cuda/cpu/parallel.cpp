#include "parallel.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#if !defined(_WIN32)
#include <pthread.h>
#endif
#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
#define NFC_PAUSE() _mm_pause()
#else
#define NFC_PAUSE() std::this_thread::yield()
#endif

namespace nfc {
namespace {

// How long a thread spins before it sleeps: about half a millisecond, the time between two calls in a training step.
// Waking a sleeping thread takes longer than some stages do.
constexpr int kSpins = 15000;

class Pool {
 public:
  explicit Pool(int threads) {
    try {
      for (int i = 1; i < threads; ++i) workers_.emplace_back([this] { work(); });
    } catch (const std::system_error&) {
      // The system allows no more threads; the ones that have started take all items.
    }
  }

  ~Pool() {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      stop_ = true;
      generation_.fetch_add(1);
    }
    wake_.notify_all();
    for (std::thread& worker : workers_) worker.join();
  }

  void run(int items, const std::function<void(int)>& body) {
    body_ = &body;
    done_.store(0, std::memory_order_relaxed);
    ticket_.store(uint64_t(items) << 32, std::memory_order_release);
    {
      std::lock_guard<std::mutex> lock(mutex_);
      generation_.fetch_add(1);
    }
    wake_.notify_all();
    take_items();
    // It waits for items, not for workers: one that wakes too late finds none left.
    for (int spin = 0; done_.load(std::memory_order_acquire) < items; ++spin) {
      if (spin < kSpins) {
        NFC_PAUSE();
      } else {
        std::this_thread::yield();
      }
    }
    if (failure_) std::rethrow_exception(std::exchange(failure_, nullptr));
  }

 private:
  // The upper half of the ticket is the number of items, the lower half the next item, so that one atomic read gives
  // both for the same run.
  void take_items() {
    for (;;) {
      const uint64_t ticket = ticket_.fetch_add(1, std::memory_order_acq_rel);
      const uint32_t item = uint32_t(ticket), items = uint32_t(ticket >> 32);
      if (item >= items) return;
      try {
        (*body_)(int(item));
      } catch (...) {  // out of memory: the caller of `run` gets the first exception
        std::lock_guard<std::mutex> lock(mutex_);
        if (!failure_) failure_ = std::current_exception();
      }
      done_.fetch_add(1, std::memory_order_release);
    }
  }

  void work() {
    unsigned seen = 0;
    for (;;) {
      for (int spin = 0; spin < kSpins && generation_.load(std::memory_order_acquire) == seen; ++spin) NFC_PAUSE();
      if (generation_.load(std::memory_order_acquire) == seen) {
        std::unique_lock<std::mutex> lock(mutex_);
        wake_.wait(lock, [&] { return generation_.load() != seen; });
      }
      seen = generation_.load(std::memory_order_acquire);
      if (stop_) return;
      take_items();
    }
  }

  std::vector<std::thread> workers_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::atomic<unsigned> generation_{0};
  std::atomic<uint64_t> ticket_{0};
  std::atomic<int> done_{0};
  bool stop_ = false;
  std::exception_ptr failure_;
  const std::function<void(int)>* body_ = nullptr;
};

std::mutex pool_mutex;
Pool* pool = nullptr;
int requested_threads = 1, pool_threads = 0;

#if !defined(_WIN32)
// A forked child has none of the pool's threads: it leaves the old pool alone and makes a new one when it needs one.
void forget_pool() { pool = nullptr, pool_threads = 0; }
const int fork_handler =
    pthread_atfork([] { pool_mutex.lock(); }, [] { pool_mutex.unlock(); }, [] { forget_pool(), pool_mutex.unlock(); });
#endif

}  // namespace

void set_thread_count(int count) {
  std::lock_guard<std::mutex> lock(pool_mutex);
  requested_threads = std::max(1, count);
}

int thread_count() {
  std::lock_guard<std::mutex> lock(pool_mutex);
  return requested_threads;
}

void parallel_for(int items, const std::function<void(int)>& body) {
  std::lock_guard<std::mutex> lock(pool_mutex);
  if (requested_threads == 1 || items <= 1) {
    for (int i = 0; i < items; ++i) body(i);
    return;
  }
  if (pool_threads != requested_threads) {
    delete pool;
    pool = new Pool(requested_threads), pool_threads = requested_threads;
  }
  pool->run(items, body);
}

}  // namespace nfc
