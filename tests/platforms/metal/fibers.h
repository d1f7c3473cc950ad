// Runs the threads of a workgroup as fibers: one after the other, each to the next barrier.
#pragma once

#include <cstdint>
#include <functional>
#include <ucontext.h>
#include <vector>

namespace fibers {

constexpr size_t STACK = 64 << 10;

struct Fiber {
  ucontext_t context;
  std::vector<char> stack;
  bool ended;
};

inline ucontext_t scheduler;
inline std::vector<Fiber> all;
inline size_t now;
inline const std::function<void(uint32_t)> *body;

inline void enter() {
  (*body)(uint32_t(now));
  all[now].ended = true;
  swapcontext(&all[now].context, &scheduler);
}

// False if some threads end while others wait at a barrier.
inline bool run(uint32_t threads, const std::function<void(uint32_t)> &f) {
  body = &f;
  if (all.size() < threads) all.resize(threads);
  for (uint32_t i = 0; i < threads; i++) {
    Fiber &fiber = all[i];
    fiber.stack.resize(STACK);
    fiber.ended = false;
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.data();
    fiber.context.uc_stack.ss_size = STACK;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, enter, 0);
  }
  for (size_t ended = 0; ended == 0;) {
    for (now = 0; now < threads; now++) {
      swapcontext(&scheduler, &all[now].context);
      ended += all[now].ended;
    }
    if (ended != 0 && ended != threads) return false;
  }
  return true;
}

} // namespace fibers

extern "C" inline void threadgroup_waits() { swapcontext(&fibers::all[fibers::now].context, &fibers::scheduler); }
