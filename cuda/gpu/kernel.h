// How a kernel is written, so that NVRTC compiles it for a GPU and a C++ compiler for the emulator
// (emulate/device.h, which defines both macros first).
#pragma once

#ifndef NFC_KERNEL

// NFC_KERNEL(name, Args, threads) or (name, Args, threads, blocks): a kernel of one argument, a struct that stays in
// constant memory, for blocks of `threads`, with registers for so many `blocks` on a multiprocessor at once.
#define NFC_KERNEL(name, Args, ...) \
  extern "C" __global__ void __launch_bounds__(__VA_ARGS__) name(const __grid_constant__ Args args)

// An array that the threads of a block share. A function that has one, other than a kernel, must be `static`.
#define NFC_SHARED(type, name, size) __shared__ type name[size]

#endif

namespace nfc {

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;

}  // namespace nfc
