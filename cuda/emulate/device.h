// A GPU for tests: a C++ compiler includes this before a file of cuda/gpu and runs its kernels, a block after the
// other, each thread of a block on a stack of its own. Threads change places at barriers, shuffles and votes only.
//
// What it catches, with the kernel, block and thread: a barrier or shuffle that some thread never reaches, lanes of a
// warp in different operations, and in shared memory: places out of bounds, values read before they are written, and
// two threads at one value with no barrier between them, one of them writing. Accesses out of bounds of global memory
// are AddressSanitizer's to find. Not seen: races in global memory.
//
// ptx.h runs what NVRTC makes of the same kernels over the same blocks, threads and checks.
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
  const char* operation;      // the barrier or exchange it waits in
  uint32_t mask;              // the lanes that take part in the exchange
  uint32_t given;             // to the other lanes ...
  uint32_t received[kLanes];  // ... and by them
  int met[kLanes];            // when each lane of the warp was last known to wait, in exchanges of the warp
};

struct Block {
  ucontext_t scheduler;
  std::vector<Thread> threads;
  int current = 0, barriers = 0;
  std::vector<int> exchanges;  // by warp: how many there were, which is its clock
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
inline int lane() { return block.current % kLanes; }
inline Thread& me() { return block.threads[size_t(block.current)]; }
inline int& clock_of_warp() { return block.exchanges[size_t(warp_of(block.current))]; }

// The values that the lanes of `mask` gave, by lane; all of them must take part, with the same mask.
inline const uint32_t* exchange(uint32_t value, const char* operation, uint32_t mask) {
  if (!(mask >> lane() & 1)) fail(std::string(operation) + " with a mask that leaves out its own lane");
  const int present = std::min(kLanes, int(block.threads.size()) - warp_of(block.current) * kLanes);
  me().given = value, me().mask = mask & (0xffffffffu >> (kLanes - present));
  wait(State::kAtWarp, operation);
  return me().received;
}

// One value of shared memory, watched: who wrote and read it last, after how many barriers of the block, and when by
// the clock of the warp.
struct Shadow {
  unsigned long long written_in = 0;  // block
  int writer = -1, write_barrier = -1, write_time = -1;
  int reading_warp = -1, read_barrier = -1, read_time = -1;
  uint32_t readers = 0;  // lanes of that warp
  bool atomic = false;   // the last write
};

constexpr int kSeveral = -2;

// Whether what these lanes of a warp did, the last of it at `time` and after `barrier`, precedes what this thread does.
inline bool ordered(int warp, uint32_t lanes, int barrier, int time) {
  if (barrier != block.barriers) return true;
  if (warp != warp_of(block.current)) return false;
  for (int other = 0; other < kLanes; ++other)
    if ((lanes >> other & 1) && other != lane() && me().met[other] <= time) return false;
  return true;
}

inline bool ordered_after_write(const Shadow& s) {
  return ordered(warp_of(s.writer), 1u << s.writer % kLanes, s.write_barrier, s.write_time);
}

// Notes that the thread reads a value; `place` names it in a message.
template <class Place>
void check_read(Shadow& s, const Place& place) {
  if (s.written_in != block.id) fail(place() + " is read before it is written");
  if (!ordered_after_write(s)) {
    fail(place() + " is read with no barrier after thread " + std::to_string(s.writer) + " wrote it");
  }
  const int warp = warp_of(block.current);
  if (s.read_barrier != block.barriers) s.reading_warp = warp, s.readers = 0;
  if (s.reading_warp != warp) s.reading_warp = kSeveral;
  s.readers |= 1u << lane();
  s.read_barrier = block.barriers, s.read_time = clock_of_warp();
}

// Notes that the thread writes a value. Atomic operations do not race with each other.
template <class Place>
void check_write(Shadow& s, const Place& place, bool atomic = false) {
  if (s.written_in == block.id) {
    if (!(atomic && s.atomic) && !ordered_after_write(s)) {
      fail(place() + " is written with no barrier after thread " + std::to_string(s.writer) + " wrote it");
    }
    if (!ordered(s.reading_warp, s.readers, s.read_barrier, s.read_time)) {
      fail(place() + " is written with no barrier after another thread read it");
    }
  }
  s = Shadow();
  s.written_in = block.id, s.writer = block.current, s.atomic = atomic;
  s.write_barrier = block.barriers, s.write_time = clock_of_warp();
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
    check_read(shadow_[index], [&] { return place(index); });
    return values_[index];
  }

  T write(int index, T value) {
    check_write(shadow_[index], [&] { return place(index); });
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
  block.exchanges.assign((count + kLanes - 1) / kLanes, 0);
  block.votes[0] = block.votes[1] = 0, block.barriers = 0;
  ++block.id;
  for (Thread& thread : block.threads) {
    if (!thread.stack) thread.stack.reset(new char[kStackBytes]);
    getcontext(&thread.context);
    thread.context.uc_stack.ss_sp = thread.stack.get();
    thread.context.uc_stack.ss_size = kStackBytes;
    thread.context.uc_link = nullptr;
    thread.state = State::kReady, thread.operation = "";
    std::fill_n(thread.met, kLanes, 0);
    makecontext(&thread.context, run_thread, 0);
  }
}

// Whether these threads, but for those that are done where that is allowed, all wait in `state`; fails if they wait in
// different operations.
inline bool all_wait(const std::vector<Thread*>& threads, State state, bool may_be_done) {
  const char* operation = nullptr;
  for (const Thread* thread : threads) {
    if (thread->state == State::kDone && may_be_done) continue;
    if (thread->state != state) return false;
    if (operation && std::strcmp(operation, thread->operation) != 0) {
      block.failure = "threads wait in " + std::string(operation) + " and in " + thread->operation;
      return false;
    }
    operation = thread->operation;
  }
  return operation != nullptr;
}

inline void release(const std::vector<Thread*>& threads) {
  for (Thread* thread : threads)
    if (thread->state != State::kDone) thread->state = State::kReady;
}

// Completes the exchange that `first` waits in, if all lanes of its mask do; they then know what each other has done.
inline bool complete_exchange(size_t warp, const Thread& first) {
  Thread* const begin = &block.threads[warp * kLanes];
  std::vector<Thread*> group;
  for (int other = 0; other < kLanes; ++other)
    if (first.mask >> other & 1) group.push_back(begin + other);
  if (!all_wait(group, State::kAtWarp, false)) return false;
  uint32_t given[kLanes] = {};
  int met[kLanes] = {};
  for (const Thread* thread : group) {
    if (thread->mask != first.mask) {
      block.failure = std::string("lanes wait in ") + first.operation + " with different masks";
      return false;
    }
    given[thread - begin] = thread->given;
    for (int other = 0; other < kLanes; ++other) met[other] = std::max(met[other], thread->met[other]);
  }
  ++block.exchanges[warp];
  for (const Thread* thread : group) met[thread - begin] = block.exchanges[warp];
  for (Thread* thread : group) {
    std::copy_n(given, kLanes, thread->received);
    std::copy_n(met, kLanes, thread->met);
  }
  release(group);
  return true;
}

// Lets the threads that wait for each other go on; false if there are none.
inline bool release_waiting() {
  bool released = false;
  for (size_t i = 0; i < block.threads.size() && block.failure.empty(); ++i)
    if (block.threads[i].state == State::kAtWarp) released |= complete_exchange(i / kLanes, block.threads[i]);
  if (released || !block.failure.empty()) return released;
  std::vector<Thread*> all;
  for (Thread& thread : block.threads) all.push_back(&thread);
  if (!all_wait(all, State::kAtBlock, true)) return false;
  ++block.barriers;
  block.votes[block.barriers % 2] = 0;  // of the barrier to come
  release(all);
  return true;
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

#define NFC_THREADS(threads, ...) threads

#define NFC_KERNEL(name, Args, ...)                                                         \
  static void name##_body(const Args& args);                                                \
  extern "C" void name(const void* args) { name##_body(*static_cast<const Args*>(args)); }  \
  extern "C" const unsigned name##_threads = NFC_THREADS(__VA_ARGS__, 0);                   \
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
inline bool __all_sync(unsigned mask, bool vote) { return __ballot_sync(mask, vote) == emulate::me().mask; }

namespace emulate {

template <class T>
T fetch(unsigned mask, T value, int from, const char* operation) {
  static_assert(sizeof(T) == 4);
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  const uint32_t* all = exchange(bits, operation, mask);
  const bool own = from < 0 || from >= kLanes;
  if (!own && !(mask >> from & 1)) fail(std::string(operation) + " from a lane that the mask leaves out");
  const uint32_t found = own ? bits : all[from];
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
