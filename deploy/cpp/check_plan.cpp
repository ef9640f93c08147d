// Run a plan with TensorRT alone, and hold it against the golden vectors of its bundle as drsn-edge does.
//
//   unzip cw.drsn/golden.npz -d golden
//   g++ -std=c++17 check_plan.cpp -o check_plan -lnvinfer -lcudart
//   ./check_plan cw.drsn/engines/KEY/model.fp16.engine golden fp16
//
// TensorRT 8.5 to 11: only functions that all of these have. Exit code 0: within tolerance, 5: not, 4: bad input, 3: no
// GPU or another TensorRT. The tolerance is that of drsn_edge/parity/tolerances.py for an engine: its error against the
// graph of its precision may be as large as that precision's own error against fp32, and no larger.

#include <NvInfer.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <iterator>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

struct Failure : std::runtime_error {
    int code;
    Failure(int code, std::string const& what) : std::runtime_error(what), code(code) {}
};

class Logger : public nvinfer1::ILogger {
    void log(Severity severity, char const* text) noexcept override {
        if (severity <= Severity::kWARNING) std::cerr << text << '\n';
    }
};

std::vector<char> readFile(std::string const& path) {
    std::ifstream stream(path, std::ios::binary);
    if (!stream) throw Failure(4, path + " cannot be read");
    return {std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
}

struct Array {
    std::vector<std::int64_t> shape;
    std::vector<double> values;
    std::int64_t rows() const { return shape.empty() ? 0 : shape[0]; }
    std::int64_t rowSize() const { return rows() == 0 ? 0 : static_cast<std::int64_t>(values.size()) / rows(); }
};

// A .npy file of version 1.0, float32 or float64, little-endian, C order: what a bundle holds.
Array readNpy(std::string const& path) {
    std::vector<char> const data = readFile(path);
    if (data.size() < 10 || std::string(data.data(), 8) != std::string("\x93NUMPY\x01\0", 8))
        throw Failure(4, path + " is no .npy file of version 1.0");
    std::size_t const length = static_cast<unsigned char>(data[8]) | static_cast<unsigned char>(data[9]) << 8;
    if (data.size() < 10 + length) throw Failure(4, path + " is cut off");
    std::string const head(data.data() + 10, length);
    bool const single = head.find("'<f4'") != std::string::npos;
    if (!single && head.find("'<f8'") == std::string::npos) throw Failure(4, path + " holds no float32 or float64");
    if (head.find("'fortran_order': False") == std::string::npos) throw Failure(4, path + " is not in C order");
    Array array;
    std::size_t count = 1, at = head.find("'shape': (");
    if (at == std::string::npos) throw Failure(4, path + " has no shape");
    for (at += 10; at < head.size() && head[at] != ')';) {
        char* end = nullptr;
        long long const size = std::strtoll(head.c_str() + at, &end, 10);
        std::size_t const next = static_cast<std::size_t>(end - head.c_str());
        if (next == at || size < 0) throw Failure(4, path + " has a damaged shape");
        array.shape.push_back(size);
        count *= static_cast<std::size_t>(size);
        for (at = next; at < head.size() && (head[at] == ',' || head[at] == ' ');) ++at;
    }
    std::size_t const width = single ? 4 : 8;
    if (data.size() - 10 - length != count * width) throw Failure(4, path + " has another size than its shape says");
    char const* const body = data.data() + 10 + length;
    for (std::size_t i = 0; i < count; ++i) {
        float narrow = 0;
        double wide = 0;
        std::copy_n(body + i * width, width, single ? reinterpret_cast<char*>(&narrow) : reinterpret_cast<char*>(&wide));
        array.values.push_back(single ? narrow : wide);
    }
    return array;
}

struct Error {
    double maxAbs = 0, rmse = 0, largest = 0;
    std::int64_t same = 0;
    bool finite = true;
};

Error compare(Array const& want, std::vector<double> const& got) {
    if (want.values.size() != got.size()) throw Failure(4, "the logits have another size than the recorded ones");
    Error error;
    double squares = 0;
    for (std::size_t i = 0; i < got.size(); ++i) {
        double const difference = std::abs(got[i] - want.values[i]);
        error.finite = error.finite && std::isfinite(got[i]);
        error.maxAbs = std::max(error.maxAbs, difference);
        error.largest = std::max(error.largest, std::abs(want.values[i]));
        squares += difference * difference;
    }
    error.rmse = std::sqrt(squares / static_cast<double>(got.size()));
    for (std::int64_t row = 0; row < want.rows(); ++row) {
        auto const from = row * want.rowSize(), to = from + want.rowSize();
        auto const one = std::max_element(want.values.begin() + from, want.values.begin() + to) - want.values.begin();
        auto const other = std::max_element(got.begin() + from, got.begin() + to) - got.begin();
        error.same += one == other;
    }
    return error;
}

void check(cudaError_t status, char const* what) {
    if (status != cudaSuccess) throw Failure(3, std::string(what) + ": " + cudaGetErrorString(status));
}

// Memory on the GPU.
class Buffer {
public:
    explicit Buffer(std::size_t size) { check(cudaMalloc(&mPointer, size), "no memory on the GPU"); }
    ~Buffer() { cudaFree(mPointer); }
    Buffer(Buffer const&) = delete;
    Buffer& operator=(Buffer const&) = delete;
    void* get() const { return mPointer; }

private:
    void* mPointer = nullptr;
};

std::vector<double> run(std::string const& path, Array const& windows, std::int64_t classes) {
    Logger logger;
    std::vector<char> const plan = readFile(path);
    std::unique_ptr<nvinfer1::IRuntime> runtime(nvinfer1::createInferRuntime(logger));
    if (!runtime) throw Failure(3, "TensorRT does not start: is there a GPU?");
    std::unique_ptr<nvinfer1::ICudaEngine> engine(runtime->deserializeCudaEngine(plan.data(), plan.size()));
    if (!engine) throw Failure(3, path + " is not for this TensorRT or this GPU: build it here");
    std::unique_ptr<nvinfer1::IExecutionContext> context(engine->createExecutionContext());
    if (!context) throw Failure(3, "no execution context: not enough memory?");
    if (engine->getTensorDataType("window") != nvinfer1::DataType::kFLOAT
        || engine->getTensorDataType("logits") != nvinfer1::DataType::kFLOAT)
        throw Failure(4, "window and logits of a bundle's engine are float32");
    nvinfer1::Dims const largest = engine->getProfileShape("window", 0, nvinfer1::OptProfileSelector::kMAX);
    if (largest.nbDims != static_cast<int>(windows.shape.size())) throw Failure(4, "the windows have another rank");
    std::int64_t const step = std::min<std::int64_t>(largest.d[0], windows.rows());
    Buffer input(static_cast<std::size_t>(step * windows.rowSize()) * sizeof(float));
    Buffer output(static_cast<std::size_t>(step * classes) * sizeof(float));
    if (!context->setTensorAddress("window", input.get()) || !context->setTensorAddress("logits", output.get()))
        throw Failure(4, "the engine has no tensors window and logits");
    cudaStream_t stream = nullptr;
    check(cudaStreamCreate(&stream), "no stream");
    std::vector<double> logits;
    for (std::int64_t start = 0; start < windows.rows(); start += step) {
        std::int64_t const count = std::min(step, windows.rows() - start);
        std::vector<float> const feed(windows.values.begin() + start * windows.rowSize(),
            windows.values.begin() + (start + count) * windows.rowSize());
        nvinfer1::Dims shape = largest;
        for (int axis = 0; axis < shape.nbDims; ++axis)
            shape.d[axis] = static_cast<std::int32_t>(axis == 0 ? count : windows.shape[static_cast<std::size_t>(axis)]);
        if (!context->setInputShape("window", shape)) throw Failure(4, "the engine does not take windows of this shape");
        std::vector<float> found(static_cast<std::size_t>(count * classes));
        check(cudaMemcpyAsync(input.get(), feed.data(), feed.size() * sizeof(float), cudaMemcpyHostToDevice, stream), "copy");
        if (!context->enqueueV3(stream)) throw Failure(3, "the engine does not run");
        check(cudaMemcpyAsync(found.data(), output.get(), found.size() * sizeof(float), cudaMemcpyDeviceToHost, stream), "copy");
        check(cudaStreamSynchronize(stream), "the GPU");
        logits.insert(logits.end(), found.begin(), found.end());
    }
    cudaStreamDestroy(stream);
    return logits;
}

int judge(std::string const& plan, std::string const& golden, std::string const& precision) {
    Array const windows = readNpy(golden + "/windows.npy");
    Array const single = readNpy(golden + "/logits.onnx-fp32.npy");
    Array const wanted = readNpy(golden + "/logits.onnx-" + precision + ".npy");
    if (windows.rows() == 0 || wanted.rows() != windows.rows()) throw Failure(4, "golden vectors of different lengths");
    Error const own = compare(single, wanted.values);
    Error const error = compare(wanted, run(plan, windows, wanted.rowSize()));
    bool passed = error.finite;
    if (precision == "fp32") {
        passed = passed && error.maxAbs <= 1e-4 * error.largest && error.same == windows.rows();
    } else {
        double const floor = 2e-5 * own.largest;
        passed = passed && error.maxAbs <= std::max(own.maxAbs, floor) && error.rmse <= std::max(own.rmse, floor);
    }
    std::printf("%s: %lld windows, largest difference %.3g (the precision's own %.3g), same decision %.4f\n",
        passed ? "within tolerance" : "OUT OF TOLERANCE", static_cast<long long>(windows.rows()), error.maxAbs, own.maxAbs,
        static_cast<double>(error.same) / static_cast<double>(windows.rows()));
    return passed ? 0 : 5;
}

}  // namespace

int main(int count, char** words) {
    if (count != 4) {
        std::fprintf(stderr, "check_plan PLAN GOLDEN_FOLDER fp32|fp16|int8\n");
        return 2;
    }
    try {
        return judge(words[1], words[2], words[3]);
    } catch (Failure const& failure) {
        std::fprintf(stderr, "error: %s\n", failure.what());
        return failure.code;
    }
}
