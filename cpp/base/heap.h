// The allocator's memory.
#pragma once

namespace autoglm {

// Gives memory that was freed back to the system, where the allocator can be asked to.
void release_free_memory();

// Lets all threads share at most `most` heaps, where the allocator can be asked to. Many threads
// that have one each keep what each of them freed.
void limit_heaps(int most);

}  // namespace autoglm
