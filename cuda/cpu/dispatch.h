// Which instruction set's kernels are in use.
#pragma once

#include "kernels/table.h"

namespace nfc {

// The kernels in use: at first the best that this machine can run.
const Kernels& kernels();

// Uses the named kernels ("baseline", "avx2", "avx512") from now on; false if this machine cannot run them.
bool use_kernels(const char* name);

}  // namespace nfc
