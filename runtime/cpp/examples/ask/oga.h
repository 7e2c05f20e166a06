/*
 * The functions of onnxruntime-genai's C API that are called here, by the names and signatures of its documentation
 * (ort_genai_c.h of 0.18): its Python wheel has the library, and no header. Where you have the header, include that.
 *
 * A function that returns OgaResult * has failed where that is not NULL. What OgaCreate... makes goes to OgaDestroy...;
 * text that comes out goes to OgaDestroyString, but that of a stream is the stream's.
 */
#ifndef EDGEPRUNE_EXAMPLES_OGA_H
#define EDGEPRUNE_EXAMPLES_OGA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct OgaResult OgaResult;
typedef struct OgaConfig OgaConfig;
typedef struct OgaModel OgaModel;
typedef struct OgaTokenizer OgaTokenizer;
typedef struct OgaTokenizerStream OgaTokenizerStream;
typedef struct OgaSequences OgaSequences;
typedef struct OgaTensor OgaTensor;
typedef struct OgaNamedTensors OgaNamedTensors;
typedef struct OgaGeneratorParams OgaGeneratorParams;
typedef struct OgaGenerator OgaGenerator;

typedef enum OgaElementType {
    OgaElementType_float32 = 1,
    OgaElementType_int64 = 7,
    OgaElementType_float16 = 10
} OgaElementType; /* those of an encoder's tokens and of counts */

const char *OgaResultGetError(const OgaResult *result);
void OgaDestroyResult(OgaResult *result);
void OgaDestroyString(const char *text);
void OgaShutdown(void);

OgaResult *OgaCreateConfig(const char *folder, OgaConfig **out);
OgaResult *OgaConfigOverlay(OgaConfig *config, const char *json);
void OgaDestroyConfig(OgaConfig *config);
OgaResult *OgaCreateModelFromConfig(const OgaConfig *config, OgaModel **out);
void OgaDestroyModel(OgaModel *model);

OgaResult *OgaCreateTokenizer(const OgaModel *model, OgaTokenizer **out);
OgaResult *OgaUpdateTokenizerOptions(OgaTokenizer *tokenizer, const char *const *keys, const char *const *values,
                                     size_t count);
OgaResult *OgaTokenizerGetBosTokenId(const OgaTokenizer *tokenizer, int32_t *id);
OgaResult *OgaTokenizerApplyChatTemplate(const OgaTokenizer *tokenizer, const char *chat_template, const char *messages,
                                         const char *tools, bool add_generation_prompt, const char **out);
OgaResult *OgaTokenizerEncode(const OgaTokenizer *tokenizer, const char *text, OgaSequences *sequences);
void OgaDestroyTokenizer(OgaTokenizer *tokenizer);
OgaResult *OgaCreateTokenizerStream(const OgaTokenizer *tokenizer, OgaTokenizerStream **out);
OgaResult *OgaTokenizerStreamDecode(OgaTokenizerStream *stream, int32_t id, const char **out);
void OgaDestroyTokenizerStream(OgaTokenizerStream *stream);

OgaResult *OgaCreateSequences(OgaSequences **out);
size_t OgaSequencesGetSequenceCount(const OgaSequences *sequences, size_t at);
const int32_t *OgaSequencesGetSequenceData(const OgaSequences *sequences, size_t at);
void OgaDestroySequences(OgaSequences *sequences);

/* The memory stays the caller's, and must outlive the tensor. */
OgaResult *OgaCreateTensorFromBuffer(void *data, const int64_t *shape, size_t rank, OgaElementType type, OgaTensor **out);
void OgaDestroyTensor(OgaTensor *tensor);
OgaResult *OgaCreateNamedTensors(OgaNamedTensors **out);
OgaResult *OgaNamedTensorsSet(OgaNamedTensors *tensors, const char *name, OgaTensor *tensor);
void OgaDestroyNamedTensors(OgaNamedTensors *tensors);

OgaResult *OgaCreateGeneratorParams(const OgaModel *model, OgaGeneratorParams **out);
OgaResult *OgaGeneratorParamsSetSearchNumber(OgaGeneratorParams *params, const char *name, double value);
OgaResult *OgaGeneratorParamsSetSearchBool(OgaGeneratorParams *params, const char *name, bool value);
void OgaDestroyGeneratorParams(OgaGeneratorParams *params);
OgaResult *OgaCreateGenerator(const OgaModel *model, const OgaGeneratorParams *params, OgaGenerator **out);
OgaResult *OgaGenerator_SetInputs(OgaGenerator *generator, const OgaNamedTensors *tensors);
OgaResult *OgaGenerator_AppendTokens(OgaGenerator *generator, const int32_t *ids, size_t count);
bool OgaGenerator_IsDone(OgaGenerator *generator);
OgaResult *OgaGenerator_GenerateNextToken(OgaGenerator *generator);
OgaResult *OgaGenerator_GetNextTokens(const OgaGenerator *generator, const int32_t **ids, size_t *count);
void OgaDestroyGenerator(OgaGenerator *generator);

#ifdef __cplusplus
}
#endif
#endif
