// A GPU for tests: a C++ compiler includes this before a file of cuda/gpu and runs its kernels, a block after the
// other, each thread of a block on a stack of its own. Threads change places at barriers, shuffles and votes only.
//
// What it catches, with the kernel, block and thread: a barrier or shuffle that some thread never reaches, lanes of a
// warp in different operations, and in shared memory: places out of bounds, values read before they are written, and
// two threads at one value with no barrier between them, one of them writing. Accesses out of bounds of global memory
// are AddressSanitizer's to find. Not seen: races in global memory.
#pragma once

#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#define __global__
#define __device__
#define __host__

using std::max;
using std::min;

namespace emulate {

struct Index {
  unsigned x = 0, y = 0, z = 0;
};

enum class State { kReady, kAtBlock, kAtWarp, kDone };

constexpr int kLanes = 32;
constexpr size_t kStackBytes = 128 * 1024;

struct Thread {
  ucontext_t context;
  std::unique_ptr<char[]> stack;
  State state;
  const char* operation;  // the barrier or exchange it waits in
  unsigned exchanges;     // how many it took part in: the parity chooses the mailbox
};

struct Block {
  ucontext_t scheduler;
  std::vector<Thread> threads;
  int current = 0, barriers = 0;
  std::vector<int> warp_barriers;    // by warp
  std::vector<uint32_t> mailbox[2];  // by thread
  int votes[2] = {0, 0};
  std::string failure;
  unsigned long long id = 0;  // differs for every block that is run
};

inline Block block;
inline void (*body)(const void*) = nullptr;
inline const void* arguments = nullptr;

inline Index thread_index, block_index, block_size, grid_size;

// Gives up the launch.
[[noreturn]] inline void fail(const std::string& what) {
  block.failure = "block " + std::to_string(block_index.x) + ", thread " + std::to_string(block.current) + ": " + what;
  setcontext(&block.scheduler);
  std::abort();
}

inline void wait(State state, const char* operation) {
  Thread& me = block.threads[size_t(block.current)];
  me.state = state, me.operation = operation;
  swapcontext(&me.context, &block.scheduler);
}

inline int warp_of(int thread) { return thread / kLanes; }

// The value that each lane of this warp gave, by lane; all lanes must take part.
inline const uint32_t* exchange(uint32_t value, const char* operation, unsigned mask) {
  if (mask != 0xffffffffu) fail(std::string(operation) + " with a mask that is not full");
  Thread& me = block.threads[size_t(block.current)];
  std::vector<uint32_t>& box = block.mailbox[me.exchanges++ % 2];
  box[size_t(block.current)] = value;
  wait(State::kAtWarp, operation);
  return box.data() + warp_of(block.current) * kLanes;
}

inline int lane() { return block.current % kLanes; }

// One value of shared memory, watched.
struct Shadow {
  unsigned long long written_in = 0;  // block
  int writer = -1, reader = -1, write_barrier = -1, read_barrier = -1, write_warp_barrier = -1, read_warp_barrier = -1;
};

// In the place of a thread: several of different warps, or of one warp between two of its barriers.
constexpr int kSeveral = -2;
inline int several_of(int warp) { return kSeveral - 1 - warp; }

// The warp of a thread or of several; -1 for several warps and for none.
inline int warp_of_any(int other) { return other >= 0 ? warp_of(other) : other < kSeveral ? kSeveral - 1 - other : -1; }

// Whether something that `other` did after these barriers happened before what this thread does now.
inline bool ordered(int other, int barrier, int warp_barrier) {
  if (other == block.current || barrier != block.barriers) return true;
  const int warp = warp_of(block.current);
  return warp_of_any(other) == warp && warp_barrier != block.warp_barriers[size_t(warp)];
}

// Who has read a value after these barriers, once this thread has read it, too.
inline int joined(int reader, int barrier, int warp_barrier) {
  if (reader == -1 || ordered(reader, barrier, warp_barrier)) return block.current;
  const int warp = warp_of(block.current);
  return warp_of_any(reader) == warp ? several_of(warp) : kSeveral;
}

template <class T, int Size>
class Shared {
 public:
  explicit Shared(const char* name) : name_(name) {}

  class Value {
   public:
    Value(Shared& array, int index) : array_(array), index_(index) {}
    operator T() const { return array_.read(index_); }
    T operator=(T value) const { return array_.write(index_, value); }
    T operator=(const Value& other) const { return array_.write(index_, T(other)); }
    T operator+=(T value) const { return array_.write(index_, array_.read(index_) + value); }

   private:
    Shared& array_;
    int index_;
  };

  Value operator[](long long index) {
    if (index < 0 || index >= Size) fail(place(index) + " is out of bounds of its " + std::to_string(Size) + " values");
    return Value(*this, int(index));
  }

 private:
  std::string place(long long index) const { return std::string(name_) + "[" + std::to_string(index) + "]"; }

  T read(int index) {
    Shadow& s = shadow_[index];
    if (s.written_in != block.id) fail(place(index) + " is read before it is written");
    if (!ordered(s.writer, s.write_barrier, s.write_warp_barrier)) {
      fail(place(index) + " is read with no barrier after thread " + std::to_string(s.writer) + " wrote it");
    }
    s.reader = joined(s.reader, s.read_barrier, s.read_warp_barrier);
    s.read_barrier = block.barriers, s.read_warp_barrier = block.warp_barriers[size_t(warp_of(block.current))];
    return values_[index];
  }

  T write(int index, T value) {
    Shadow& s = shadow_[index];
    if (s.written_in == block.id && !ordered(s.writer, s.write_barrier, s.write_warp_barrier)) {
      fail(place(index) + " is written with no barrier after thread " + std::to_string(s.writer) + " wrote it");
    }
    if (s.written_in == block.id && !ordered(s.reader, s.read_barrier, s.read_warp_barrier)) {
      fail(place(index) + " is written with no barrier after another thread read it");
    }
    s = Shadow{block.id, block.current, -1, block.barriers, -1,
               block.warp_barriers[size_t(warp_of(block.current))], -1};
    return values_[index] = value;
  }

  const char* name_;
  T values_[Size];
  Shadow shadow_[Size];
};

inline void run_thread() {
  body(arguments);
  block.threads[size_t(block.current)].state = State::kDone;
  setcontext(&block.scheduler);
}

inline void start_block(unsigned count) {
  block.threads.resize(count);
  block.warp_barriers.assign((count + kLanes - 1) / kLanes, 0);
  for (auto& box : block.mailbox) box.assign((count + kLanes - 1) / kLanes * kLanes, 0);
  block.votes[0] = block.votes[1] = 0, block.barriers = 0;
  ++block.id;
  for (Thread& thread : block.threads) {
    if (!thread.stack) thread.stack.reset(new char[kStackBytes]);
    getcontext(&thread.context);
    thread.context.uc_stack.ss_sp = thread.stack.get();
    thread.context.uc_stack.ss_size = kStackBytes;
    thread.context.uc_link = nullptr;
    thread.state = State::kReady, thread.operation = "", thread.exchanges = 0;
    makecontext(&thread.context, run_thread, 0);
  }
}

// Whether the threads [begin, end) that are not done all wait in `state`; fails if they wait in different operations.
inline bool all_wait(size_t begin, size_t end, State state, bool may_be_done) {
  const char* operation = nullptr;
  for (size_t i = begin; i < end; ++i) {
    const Thread& thread = block.threads[i];
    if (thread.state == State::kDone && may_be_done) continue;
    if (thread.state != state) return false;
    if (operation && std::strcmp(operation, thread.operation) != 0) {
      block.failure = "threads wait in " + std::string(operation) + " and in " + thread.operation;
      return false;
    }
    operation = thread.operation;
  }
  return operation != nullptr;
}

inline void release(size_t begin, size_t end) {
  for (size_t i = begin; i < end; ++i)
    if (block.threads[i].state != State::kDone) block.threads[i].state = State::kReady;
}

// Lets the threads that wait for each other go on; false if there are none.
inline bool release_waiting() {
  const size_t count = block.threads.size();
  bool released = false;
  for (size_t begin = 0; begin < count; begin += kLanes) {
    const size_t end = std::min(count, begin + kLanes);
    if (!all_wait(begin, end, State::kAtWarp, false)) continue;
    ++block.warp_barriers[begin / kLanes];
    release(begin, end), released = true;
  }
  if (!released && block.failure.empty() && all_wait(0, count, State::kAtBlock, true)) {
    ++block.barriers;
    block.votes[block.barriers % 2] = 0;  // of the barrier to come
    release(0, count), released = true;
  }
  return released;
}

inline void run_block() {
  while (block.failure.empty()) {
    bool waiting = false;
    for (size_t i = 0; i < block.threads.size() && block.failure.empty(); ++i) {
      Thread& thread = block.threads[i];
      if (thread.state == State::kReady) {
        block.current = int(i), thread_index.x = unsigned(i);
        // A finished or failed thread comes back by setcontext, which leaves the registers of this frame as they were
        // saved here: everything that must survive is in memory.
        swapcontext(&block.scheduler, &thread.context);
      }
      waiting |= block.threads[i].state != State::kDone;
    }
    if (!waiting || !block.failure.empty()) return;
    if (!release_waiting() && block.failure.empty()) {
      for (const Thread& thread : block.threads)
        if (thread.state != State::kDone) {
          block.failure = std::string("not all threads reach ") + thread.operation;
          break;
        }
    }
  }
}

}  // namespace emulate

#define threadIdx emulate::thread_index
#define blockIdx emulate::block_index
#define blockDim emulate::block_size
#define gridDim emulate::grid_size

#define NFC_KERNEL(name, Args, threads)                                                     \
  static void name##_body(const Args& args);                                                \
  extern "C" void name(const void* args) { name##_body(*static_cast<const Args*>(args)); }  \
  extern "C" const unsigned name##_threads = threads;                                       \
  static void name##_body(const Args& args)

#define NFC_SHARED(type, name, size) static emulate::Shared<type, size> name(#name)

inline void __syncthreads() { emulate::wait(emulate::State::kAtBlock, "__syncthreads"); }

inline int __syncthreads_count(bool vote) {
  const int turn = emulate::block.barriers % 2;
  emulate::block.votes[turn] += vote;
  emulate::wait(emulate::State::kAtBlock, "__syncthreads_count");
  return emulate::block.votes[turn];
}

inline int __syncthreads_or(bool vote) { return __syncthreads_count(vote) > 0; }

inline void __syncwarp(unsigned mask = 0xffffffffu) { emulate::exchange(0, "__syncwarp", mask); }

inline unsigned __ballot_sync(unsigned mask, bool vote) {
  const uint32_t* votes = emulate::exchange(vote, "__ballot_sync", mask);
  unsigned result = 0;
  for (int lane = 0; lane < emulate::kLanes; ++lane) result |= votes[lane] << lane;
  return result;
}

inline bool __any_sync(unsigned mask, bool vote) { return __ballot_sync(mask, vote) != 0; }
inline bool __all_sync(unsigned mask, bool vote) { return __ballot_sync(mask, vote) == mask; }

namespace emulate {

template <class T>
T fetch(unsigned mask, T value, int from, const char* operation) {
  static_assert(sizeof(T) == 4);
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  const uint32_t* all = exchange(bits, operation, mask);
  const uint32_t found = from >= 0 && from < kLanes ? all[from] : bits;
  std::memcpy(&value, &found, 4);
  return value;
}

}  // namespace emulate

template <class T>
T __shfl_sync(unsigned mask, T value, int from) {
  return emulate::fetch(mask, value, from & 31, "__shfl_sync");
}

template <class T>
T __shfl_up_sync(unsigned mask, T value, int by) {
  return emulate::fetch(mask, value, emulate::lane() - by, "__shfl_up_sync");
}

template <class T>
T __shfl_down_sync(unsigned mask, T value, int by) {
  return emulate::fetch(mask, value, emulate::lane() + by, "__shfl_down_sync");
}

template <class T>
T __shfl_xor_sync(unsigned mask, T value, int by) {
  return emulate::fetch(mask, value, emulate::lane() ^ by, "__shfl_xor_sync");
}

inline int __ffs(int bits) { return __builtin_ffs(bits); }
inline int __popc(unsigned bits) { return __builtin_popcount(bits); }

inline float __int_as_float(int bits) {
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

// Runs a kernel; returns what went wrong, or null.
extern "C" const char* emulate_launch(void (*kernel)(const void*), unsigned blocks, unsigned threads,
                                      const void* arguments) {
  using namespace emulate;
  body = kernel, emulate::arguments = arguments;
  block.failure.clear();
  grid_size = {blocks, 1, 1}, block_size = {threads, 1, 1};
  for (unsigned index = 0; index < blocks; ++index) {
    block_index = {index, 0, 0};
    start_block(threads);
    run_block();
    if (!block.failure.empty()) return block.failure.c_str();
  }
  return nullptr;
}
