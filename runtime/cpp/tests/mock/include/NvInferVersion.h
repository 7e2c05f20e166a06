/* A mock of NVIDIA's header, for tests alone. -DMOCK_RTX: that of TensorRT-RTX. */
#ifdef MOCK_RTX
#define TRT_MAJOR_RTX 1
#define NV_TENSORRT_MAJOR TRT_MAJOR_RTX
#else
#define NV_TENSORRT_MAJOR 10
#endif
