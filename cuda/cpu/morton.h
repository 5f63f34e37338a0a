// The order of points along a Morton curve.
#pragma once

#include <cstdint>

#include "buffer.h"

namespace nfc {

// The indices of `count` points [count, 3] in the box [-1, 1]^3 along a Morton curve, by which points that are near
// each other mostly follow each other. A function of the points alone; the result lives in `scratch`.
const uint32_t* morton_order(const float* points, int count, Buffer<uint32_t> (&scratch)[4]);

}  // namespace nfc
