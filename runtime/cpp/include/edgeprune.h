/*
 * edgeprune.h: open a bundle of edgeprune, run it, and know what came out. C99, no other header of the project needed.
 *
 *     edgeprune_bundle *bundle;
 *     if (edgeprune_open("out", NULL, &bundle) != EDGEPRUNE_OK) { puts(edgeprune_error(NULL)); return 1; }
 *     edgeprune_preprocess(bundle, rgb, width, height, stride, pixels, pixels_nbytes);
 *     edgeprune_run(bundle, &(edgeprune_buffer){"pixel_values", pixels, pixels_nbytes}, 1,
 *                   &(edgeprune_buffer){"tokens", tokens, tokens_nbytes}, 1);
 *     edgeprune_close(bundle);
 *
 * Failure    Every function that can fail returns a status. EDGEPRUNE_OK is 0. A function that failed has left its
 *            outputs in no state that means anything: do not read them. `edgeprune_error` says in one line what must
 *            hold, what was given, and the nearest remedy. Nothing here aborts, prints, or throws.
 * Memory     Every buffer is the caller's: the library fills it and keeps no pointer to it, except that `edgeprune_run`
 *            remembers the addresses of the last call, to be fast when they come again (see there). What the library
 *            returns a pointer to (names, labels, error text) is its own, and lives as long as the function says.
 * Threads    `edgeprune_open` and handles of their own may be used by any number of threads at once. One handle may be
 *            used by several threads: runs on it take turns, everything else is read only. `edgeprune_close` must be
 *            the last call on a handle.
 * Growth     Structs that may grow begin with their size, set by EDGEPRUNE_OPTIONS and EDGEPRUNE_INFO; numbers of
 *            enumerators never change.
 */
#ifndef EDGEPRUNE_H
#define EDGEPRUNE_H

#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32)
#define EDGEPRUNE_API __declspec(dllexport)
#elif defined(__GNUC__)
#define EDGEPRUNE_API __attribute__((visibility("default")))
#else
#define EDGEPRUNE_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* A bundle that is open on a device. */
typedef struct edgeprune_bundle edgeprune_bundle;

typedef enum edgeprune_status {
    EDGEPRUNE_OK = 0,
    EDGEPRUNE_WRONG_REQUEST = 1, /* an argument: NULL, an unknown name, a size that does not fit */
    EDGEPRUNE_BAD_BUNDLE = 2,    /* no bundle, an altered or truncated one, or one that is newer than this library */
    EDGEPRUNE_BAD_IMAGE = 3,     /* an image that cannot become an input, or an input that is not finite */
    EDGEPRUNE_NO_DEVICE = 4,     /* the device, its driver, its library or a plan for it is not there */
    EDGEPRUNE_FAILED = 5         /* what should work did not: the executor failed, memory ran out */
} edgeprune_status;

/* What runs a bundle. */
typedef enum edgeprune_device {
    EDGEPRUNE_AUTO = 0,          /* the best that is here: a plan, else CUDA, else the CPU */
    EDGEPRUNE_CPU = 1,           /* the graph in ONNX Runtime on the CPU */
    EDGEPRUNE_CUDA = 2,          /* the graph in ONNX Runtime on CUDA, without TF32 */
    EDGEPRUNE_TENSORRT = 3,      /* the plan that fits this machine, of TensorRT or TensorRT-RTX */
    EDGEPRUNE_ORT_TENSORRT = 4,  /* the graph in ONNX Runtime by its TensorRT execution provider */
    EDGEPRUNE_ORT_TENSORRT_RTX = 5 /* the graph in ONNX Runtime by its TensorRT-RTX execution provider */
} edgeprune_device;

typedef enum edgeprune_dtype {
    EDGEPRUNE_FLOAT32 = 1,
    EDGEPRUNE_FLOAT16 = 2,
    EDGEPRUNE_UINT8 = 3,
    EDGEPRUNE_INT8 = 4,
    EDGEPRUNE_INT32 = 5,
    EDGEPRUNE_INT64 = 6,
    EDGEPRUNE_BOOL = 7
} edgeprune_dtype;

/* `text` is one line without a line break, valid during the call. It may come from any thread that uses the handle. */
typedef void (*edgeprune_log)(void *context, const char *text);

/* How to open a bundle. `edgeprune_options options = EDGEPRUNE_OPTIONS;`: zero is the default of all but the first. */
typedef struct edgeprune_options {
    size_t struct_nbytes;
    edgeprune_device device;
    int32_t gpu;                 /* which one, in the order of the CUDA driver */
    int32_t threads;             /* CPU threads of one run; 0 for ONNX Runtime's own choice, the physical cores */
    int32_t keep;                /* tokens per image, at most the bundle's, which must be `nested`; 0 for the bundle's */
    int32_t skip_hashes;         /* 1: sizes are checked, but not the sha256 of files other than the manifest */
    int32_t skip_finite;         /* 1: inputs are not looked through for NaN and infinity */
    int32_t split;               /* 1: the two halves of a bundle that was exported with --split, in place of the one
                                    graph: for edgeprune_encode and edgeprune_select */
    const char *onnxruntime;     /* file name of ONNX Runtime's library; NULL for the system's search, and
                                    the environment variable EDGEPRUNE_ONNXRUNTIME before it */
    edgeprune_log log;           /* what was passed over, and warnings; NULL for silence */
    void *log_context;
} edgeprune_options;
#define EDGEPRUNE_OPTIONS {sizeof(edgeprune_options), EDGEPRUNE_AUTO, 0, 0, 0, 0, 0, 0, NULL, NULL, NULL}

/* What a bundle is. Texts live as long as the handle. */
typedef struct edgeprune_info {
    size_t struct_nbytes;
    const char *method;          /* such as "fastervlm" */
    const char *model;           /* its Hugging Face id, or the name of its folder */
    const char *precision;       /* of the weights: "float32", "float16", "int8" */
    const char *device;          /* what runs it: "cpu", "cuda", "tensorrt", ... */
    const char *source;          /* name of the file that is run */
    int32_t batch;               /* images of one run, or tiles of one image; 0 where the graph takes any number */
    int32_t tiles;               /* tiles of one image; 1 where images are not cut up */
    int32_t pooled;              /* 1 where these tiles, or frames, are one pool, of which `keep` are kept in all */
    int32_t grid_rows, grid_columns; /* patches of an image or tile; N is their product */
    int32_t keep;                /* tokens per image or tile, K */
    int32_t nested;              /* 1 where the first k of `picks` are what a budget of k would keep */
    int32_t detects;             /* 1 where it gives logits and pred_boxes instead of tokens; a classifier gives
                                    logits alone, so that it has labels and does not detect */
    int32_t height, width;       /* of an image as the graph takes it, pixels */
    size_t image_nbytes;         /* of one image in pixel_values; of all tiles of it where it is cut up */
    size_t seen_nbytes;          /* of what edgeprune_encode leaves of a run; of one image where the batch is open; 0 of
                                    a handle that was opened without `split` */
    size_t inputs, outputs;      /* how many tensors go in and come out */
    size_t labels;               /* classes of a detector or a classifier */
} edgeprune_info;
#define EDGEPRUNE_INFO \
    {sizeof(edgeprune_info), NULL, NULL, NULL, NULL, NULL, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}

#define EDGEPRUNE_MAX_RANK 8

/* An input or output of the graph, in row-major order without gaps. The name lives as long as the handle. */
typedef struct edgeprune_tensor {
    const char *name;
    edgeprune_dtype dtype;
    int32_t rank;
    int64_t shape[EDGEPRUNE_MAX_RANK]; /* 0 for the dimension of the batch where the graph takes any number of images */
    size_t nbytes;                     /* of the whole tensor; of one image where the batch is open */
} edgeprune_tensor;

/* A tensor's memory, by its name. */
typedef struct edgeprune_buffer {
    const char *name;
    void *data;
    size_t nbytes;
} edgeprune_buffer;

/* One object of a detector, in pixels of the image given; a box may reach beyond the image's edges. */
typedef struct edgeprune_detection {
    float score;                       /* of the label, in 0..1 */
    int32_t label;                     /* for edgeprune_label */
    float left, top, right, bottom;
} edgeprune_detection;

/* One class of a classifier. */
typedef struct edgeprune_class {
    float probability;                 /* in 0..1; of all classes together 1 */
    int32_t label;                     /* for edgeprune_label */
} edgeprune_class;

/* MAJOR.MINOR.PATCH of the library; static. */
EDGEPRUNE_API const char *edgeprune_version(void);

/*
 * Open a bundle and everything that a run needs. `folder`: of the bundle, UTF-8 or whatever bytes the file system
 * takes. `options`: NULL for the defaults. On success *bundle owns the handle, which must go to edgeprune_close(); on
 * failure *bundle is NULL, and edgeprune_error(NULL) says why. Every file is checked against the manifest's sizes and
 * hashes, and what was hashed is what is run: files are mapped once and stay mapped. Takes seconds for large weights.
 */
EDGEPRUNE_API edgeprune_status edgeprune_open(const char *folder, const edgeprune_options *options,
                                              edgeprune_bundle **bundle);

/* Let go of everything. NULL is allowed. Pointers that came from the handle are dead then. */
EDGEPRUNE_API void edgeprune_close(edgeprune_bundle *bundle);

/*
 * Why the calling thread's last failed call on this handle failed; of NULL, its last failed edgeprune_open, or call
 * with a NULL handle. One line, UTF-8; "" where none failed. Valid until the thread's next call that fails.
 */
EDGEPRUNE_API const char *edgeprune_error(const edgeprune_bundle *bundle);

/* Fill `info`, whose struct_nbytes must be set (EDGEPRUNE_INFO). Fails for NULL and for an unknown size alone. */
EDGEPRUNE_API edgeprune_status edgeprune_get_info(const edgeprune_bundle *bundle, edgeprune_info *info);

/* The tensors, by their number, 0 up to `inputs` or `outputs` of the info. */
EDGEPRUNE_API edgeprune_status edgeprune_get_input(const edgeprune_bundle *bundle, size_t at, edgeprune_tensor *tensor);
EDGEPRUNE_API edgeprune_status edgeprune_get_output(const edgeprune_bundle *bundle, size_t at,
                                                    edgeprune_tensor *tensor);

/* An input or output by its name. Fails where there is none, and says which there are. */
EDGEPRUNE_API edgeprune_status edgeprune_find(const edgeprune_bundle *bundle, const char *name,
                                              edgeprune_tensor *tensor);

/* The name of a class of a detector or a classifier; NULL beyond the last one. */
EDGEPRUNE_API const char *edgeprune_label(const edgeprune_bundle *bundle, size_t at);

/*
 * One RGB image to what the graph takes for it: resized, cropped, cut into tiles and normalised, bit for bit as the
 * Python runtime does it. rgb: 3 bytes a pixel; stride: bytes from one row to the next, 0 for 3 * width.
 * pixels: image_nbytes of the info, host memory; of a batch, one image's part of it. Allocates nothing after the first
 * image of a size. Fails with EDGEPRUNE_BAD_IMAGE for an image that does not fit, such as one of the wrong size where
 * the bundle does not resize.
 */
EDGEPRUNE_API edgeprune_status edgeprune_preprocess(edgeprune_bundle *bundle, const uint8_t *rgb, size_t width,
                                                    size_t height, size_t stride, void *pixels, size_t pixels_nbytes);

/*
 * Run the graph. Blocks until the outputs are written.
 *
 * inputs: those of the graph, by name, in any order. outputs: those that are wanted, at least one. Host memory.
 * nbytes must be the tensor's; where the batch is open, that of B images, the same B for all.
 * Allocates nothing and copies no tensor when it is called with the addresses and sizes of the call before: an
 * application keeps its buffers. Other addresses are fine and cost some microseconds.
 * What a graph is given beside the pixels, in float32, goes by name as well; edgeprune_find says how large it is:
 *     text     [B, C]     the question, as one vector; of which space, `ports` of manifest.json says
 *     prior    [B, N]     what is known of each patch, row by row: 0 of none of interest, 1 of no opinion
 *     xyz      [B, N, 3]  where in the world each patch is, in metres
 * Each image of a batch has its own part. For one that is left out the handle has memory with what the manifest says
 * stands in: no question, no opinion. Where a method cannot do without, the call fails and says what has to be given.
 * Where steps keep something from frame to frame (inputs `state.*`, outputs `next.*`), these may be left out: the handle
 * keeps it then, and every run is the frame behind the one before. A handle is one video; see edgeprune_first_frame.
 */
EDGEPRUNE_API edgeprune_status edgeprune_run(edgeprune_bundle *bundle, const edgeprune_buffer *inputs,
                                             size_t inputs_count, const edgeprune_buffer *outputs,
                                             size_t outputs_count);

/*
 * edgeprune_run in two, on a handle that was opened with `split`: an image is encoded once, and asked as often as there
 * are questions.
 *
 *     edgeprune_encode(bundle, pixels, pixels_nbytes, seen, seen_nbytes);
 *     edgeprune_select(bundle, seen, seen_nbytes, &(edgeprune_buffer){"text", text, text_nbytes}, 1,
 *                      &(edgeprune_buffer){"tokens", tokens, tokens_nbytes}, 1);
 *
 * seen: `seen_nbytes` of the info, of B images B times as much, aligned as malloc does it. What stands there is for
 * edgeprune_select of the same bundle and batch alone, as often as is wanted, by any handle of it. Each half reads and
 * writes it where it is: on the CPU nothing is copied. Whoever asks several images keeps as many of these.
 * inputs: of edgeprune_run all but the pixels; NULL with 0 for none. What is left out is what the manifest says.
 * edgeprune_run on such a handle is both, one after the other. Host memory; allocations as those of edgeprune_run.
 */
EDGEPRUNE_API edgeprune_status edgeprune_encode(edgeprune_bundle *bundle, const void *pixels, size_t pixels_nbytes,
                                                void *seen, size_t seen_nbytes);
EDGEPRUNE_API edgeprune_status edgeprune_select(edgeprune_bundle *bundle, const void *seen, size_t seen_nbytes,
                                                const edgeprune_buffer *inputs, size_t inputs_count,
                                                const edgeprune_buffer *outputs, size_t outputs_count);

/* The next run begins a video: what the handle kept of the frame before is forgotten. Does nothing where nothing is kept. */
EDGEPRUNE_API edgeprune_status edgeprune_first_frame(edgeprune_bundle *bundle);

/*
 * The same with buffers in the memory of the GPU that the bundle is open on, so that a frame that is there stays there.
 * stream: a cudaStream_t on which the inputs were made and the outputs will be read, NULL for the default one; returns
 * when the work is queued on it. Fails with EDGEPRUNE_WRONG_REQUEST for a handle that is not on a GPU. Inputs are not
 * looked through for NaN, and none may be left out. (Not run here: needs a GPU.)
 */
EDGEPRUNE_API edgeprune_status edgeprune_run_cuda(edgeprune_bundle *bundle, const edgeprune_buffer *inputs,
                                                  size_t inputs_count, const edgeprune_buffer *outputs,
                                                  size_t outputs_count, void *stream);

/*
 * What a detector's outputs say of one image: softmax, the best class and boxes in pixels of an image of width x
 * height, in the order of the detection tokens. logits: one image's part of `logits`, boxes: of `pred_boxes`.
 * detections: `capacity` of them, NULL with 0 to ask how many; *count: how many scores lie above the threshold, of
 * which those beyond the capacity are not written.
 */
EDGEPRUNE_API edgeprune_status edgeprune_detect(const edgeprune_bundle *bundle, const void *logits,
                                                size_t logits_nbytes, const void *boxes, size_t boxes_nbytes,
                                                size_t width, size_t height, float threshold,
                                                edgeprune_detection *detections, size_t capacity, size_t *count);

/*
 * What a classifier's output says of one image: softmax in float32, the likeliest class first. logits: one image's part
 * of `logits`. classes: `capacity` of them, of which no more are written than there are classes (`labels` of the info).
 */
EDGEPRUNE_API edgeprune_status edgeprune_classify(const edgeprune_bundle *bundle, const void *logits,
                                                  size_t logits_nbytes, edgeprune_class *classes, size_t capacity);

/*
 * The order in which a language model reads what is kept of an image's tiles: order[i] is the row, of all
 * T * K rows of `tokens`, that stands at place i. indices: the output of that name. width, height: of the image.
 */
EDGEPRUNE_API edgeprune_status edgeprune_tile_order(const edgeprune_bundle *bundle, const int32_t *indices,
                                                    size_t indices_nbytes, size_t width, size_t height, int32_t *order,
                                                    size_t order_nbytes);

#ifdef __cplusplus
}
#endif
#endif
