/*
 * Between libedgeprune and the library that opens plans: it is compiled where NVIDIA's headers are, and opened at run
 * time. libedgeprune_tensorrt.so is for plans of TensorRT, libedgeprune_tensorrt_rtx.so for those of TensorRT-RTX.
 */
#ifndef EDGEPRUNE_PLAN_API_H
#define EDGEPRUNE_PLAN_API_H

#include <stddef.h>
#include <stdint.h>

#include "edgeprune.h"

#ifdef __cplusplus
extern "C" {
#endif

#define EDGEPRUNE_PLAN_API_VERSION 1
#define EDGEPRUNE_PLAN_API_SYMBOL "edgeprune_plan_api"

typedef struct edgeprune_plan edgeprune_plan;

typedef struct edgeprune_plan_tensor {
    const char *name;                  /* lives as long as the plan */
    int32_t is_input;
    edgeprune_dtype dtype;
    int32_t rank;
    int64_t shape[EDGEPRUNE_MAX_RANK];
} edgeprune_plan_tensor;

typedef struct edgeprune_plan_memory {
    size_t at;                         /* number of the tensor */
    void *data;
    size_t nbytes;                     /* what `shape` says */
} edgeprune_plan_memory;

/* Why a call failed, one line, always ended. */
typedef struct edgeprune_plan_why {
    char text[512];
} edgeprune_plan_why;

typedef struct edgeprune_plan_functions {
    int32_t version;                   /* EDGEPRUNE_PLAN_API_VERSION */
    const char *kind;                  /* "tensorrt" or "tensorrt-rtx" */
    const char *release;               /* of NVIDIA's library that is loaded, as "10.3.0.30" */
    /* Opens a plan on a GPU. The content may go afterwards. */
    edgeprune_status (*open)(const void *content, size_t nbytes, int32_t gpu, edgeprune_plan **plan,
                             edgeprune_plan_why *why);
    void (*close)(edgeprune_plan *plan);
    size_t (*count)(const edgeprune_plan *plan);
    void (*tensor)(const edgeprune_plan *plan, size_t at, edgeprune_plan_tensor *tensor);
    /* Host memory; blocks. One call at a time. */
    edgeprune_status (*run)(edgeprune_plan *plan, const edgeprune_plan_memory *memory, size_t count,
                            edgeprune_plan_why *why);
    /* Memory of the GPU; returns when the work is queued on `stream`. One call at a time. */
    edgeprune_status (*run_cuda)(edgeprune_plan *plan, const edgeprune_plan_memory *memory, size_t count, void *stream,
                                 edgeprune_plan_why *why);
} edgeprune_plan_functions;

/* The one symbol of the library; static. */
EDGEPRUNE_API const edgeprune_plan_functions *edgeprune_plan_api(void);

#ifdef __cplusplus
}
#endif
#endif
