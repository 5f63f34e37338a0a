// A small thread pool. Work is cut into items whose results never depend on which thread takes them.
#pragma once

#include <functional>

namespace nfc {

// How many threads `parallel_for` uses, the calling one included; at least 1.
void set_thread_count(int count);
int thread_count();

// Calls body(i) for every i in [0, items), in any order, on all threads; returns when all are done. One caller at a
// time has the pool; others wait.
void parallel_for(int items, const std::function<void(int)>& body);

}  // namespace nfc
