// The allocator's free memory.
#pragma once

namespace autoglm {

// Gives memory that was freed back to the system, where the allocator can be asked to.
void release_free_memory();

}  // namespace autoglm
