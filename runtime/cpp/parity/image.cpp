// One image of tensors that hold several.
#include <cstring>

#include "parity/outputs.hpp"

namespace edgeprune::parity {

namespace {

View transposed(const View &value, std::vector<unsigned char> &memory) {
    const auto rows = static_cast<std::size_t>(value.shape[0]), columns = static_cast<std::size_t>(value.shape[1]);
    const std::size_t nbytes = size_of(value.dtype);
    memory.resize(rows * columns * nbytes + 1);
    for (std::size_t row = 0; row < rows; ++row)
        for (std::size_t column = 0; column < columns; ++column)
            std::memcpy(memory.data() + (column * rows + row) * nbytes,
                        value.as<unsigned char>() + (row * columns + column) * nbytes, nbytes);
    return {value.dtype, {value.shape[1], value.shape[0]}, memory.data()};
}

}  // namespace

Image image_of(const Tensors &tensors, std::size_t at, std::size_t images) {
    Image image;
    for (const auto &[name, value] : tensors) {
        const std::size_t lines = length(value);
        if (value.shape.size() == 2 && whole(value.dtype) && lines == 3 && images != 3) {
            image.turned.emplace_back();
            image.tensors.set(name, transposed(value, image.turned.back()));
            continue;
        }
        const std::size_t line = place(static_cast<std::int64_t>(at), lines);
        View one{value.dtype, {value.shape.begin() + 1, value.shape.end()}, nullptr};
        one.data = value.as<unsigned char>() + line * one.count() * size_of(value.dtype);
        image.tensors.set(name, one);
    }
    return image;
}

}  // namespace edgeprune::parity
