// The GPUs of this machine, by the driver's own interface: opened at run time, so that none is needed to ask.
#pragma once

#include <string>

namespace edgeprune {

struct Gpu {
    int sm = 0;  // compute capability without the dot; 0 where none can be used
    std::string name;
    int cuda = 0;         // newest major release of CUDA that the driver takes; 0 where it is not known
    std::string why_not;  // why none can be used
};

// The one of that number, in the order of the CUDA driver.
Gpu find_gpu(int number);

// Whether this address belongs to a GPU alone, so that the host cannot read it: of an address that the driver does not
// know, and where no driver was loaded by anybody, it does not.
bool on_gpu_alone(const void *address);
// Whether a GPU can read it.
bool on_gpu(const void *address);

// Waits for what was queued on a stream (a CUstream or cudaStream_t, nullptr for the default one) of a GPU.
// Throws failed when the driver does.
void wait_for(int number, void *stream);

}  // namespace edgeprune
