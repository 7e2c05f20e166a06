// Tiles of one image, as runtime/images/tiles.py cuts them: the image whole, and cut up in more detail; and the order
// of what is kept of them.
//
//     AnyRes      scaled to fit a pinpoint, zeros around it; the whole image is the first tile
//     squeezed    into a pinpoint, as InternVL; the whole image is the last tile
//     longest     scaled to that longer side first, as Idefics 3; the last tile is made of what was squeezed
//     not whole   squeezed, as LFM2-VL; the whole image is none of the tiles
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

namespace edgeprune {

struct Size {
    std::size_t height, width;
    bool operator==(const Size &other) const { return height == other.height && width == other.width; }
};

struct Tiles {
    std::size_t count = 1;        // T, the whole image among them where it is
    std::size_t side = 1;         // of a tile, pixels
    std::vector<Size> pinpoints;  // T - 1 tiles in area, or T without the whole image; none where that is the only one
    bool squeezed = false;
    bool whole = true;        // whether the whole image is one of the tiles
    std::size_t longest = 0;  // the longer side that an image is scaled to before it is squeezed; 0: it is not

    // The pinpoint for an image; 0x0 where there is none.
    Size best(Size image) const;
    // The size of the image when its longer side is `longest`.
    Size scaled(Size image) const;
    // The size of the image when it fits a pinpoint.
    static Size fitted(Size image, Size pinpoint);
};

// order[i] is the row, of all that are kept of an image's tiles, which a language model reads at place i.
//
// indices: [pools, keep], those of the tiles, or one row with indices into all patches, tile after tile
// grid: rows and columns of the patches of a tile; shape: rows and columns of the tiles (`Preprocessing::tile_shape`)
//
// Throws wrong_request when these do not fit each other.
void tile_order(const std::int32_t *indices, std::size_t pools, std::size_t keep, std::pair<int, int> grid,
                std::pair<int, int> shape, bool squeezed, bool whole_image, std::int32_t *order);

}  // namespace edgeprune
