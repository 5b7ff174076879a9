#include "base/heap.h"

#include <cstdlib>

#ifdef __GLIBC__
#include <malloc.h>
#endif

namespace autoglm {

void release_free_memory() {
#ifdef __GLIBC__
  malloc_trim(0);
#endif
}

void limit_heaps([[maybe_unused]] int most) {
#ifdef __GLIBC__
  mallopt(M_ARENA_MAX, most);
#endif
}

}  // namespace autoglm
