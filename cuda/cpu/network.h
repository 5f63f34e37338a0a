// A network of two hidden layers, with gradients.
#pragma once

#include "kernels/jobs.h"

namespace nfc {

// Writes job.out; job.w3 and job.b3 are not padded yet.
void network(NetworkJob job);

// Writes job.v_x, and to v_weights the gradients of w1, b1, w2, b2, w3, b3, one after the other and without padding.
void network_backward(NetworkJob job, float* v_weights);

}  // namespace nfc
