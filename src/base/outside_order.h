// Tells ThreadSanitizer of an order that runs through another process, or through two mappings of
// one memory: one thread puts bytes in place and somebody outside hears of it; what that somebody
// says makes another thread of ours read them. Nothing in other builds.
#pragma once

#ifdef MC_THREAD_SANITIZER
#include <sanitizer/tsan_interface.h>
#endif

namespace mooncake {

#ifdef MC_THREAD_SANITIZER
inline char outside_order;
/// Before this thread tells somebody outside.
inline void OrderBeforeOutside() noexcept { __tsan_release(&outside_order); }
/// After this thread has heard from somebody outside.
inline void OrderAfterOutside() noexcept { __tsan_acquire(&outside_order); }
#else
inline void OrderBeforeOutside() noexcept {}
inline void OrderAfterOutside() noexcept {}
#endif

}  // namespace mooncake
