// `covers`, an objective by what a graph is given beside the image: the words of a question.
#include <algorithm>
#include <cmath>

#include "parity/objectives.hpp"

namespace edgeprune::parity {

namespace {

// A matrix of a quantity; throws misfit where it has not so many columns.
Matrix matrix_of(const View &value, std::size_t columns, const char *name) {
    if (value.shape.size() != 2 || value.shape[1] != static_cast<std::int64_t>(columns))
        throw misfit(name, " must be [rows, ", columns, "], got ", shown(value.shape));
    Matrix matrix(static_cast<std::size_t>(value.shape[0]), columns);
    matrix.values = floats(value);
    return matrix;
}

// The softmax of a row of logits over a temperature, times `share`.
void soften(double *row, std::size_t count, double temperature, double share) {
    double most = -INFINITE;
    for (std::size_t at = 0; at < count; ++at) row[at] /= temperature, most = higher(most, row[at]);
    for (std::size_t at = 0; at < count; ++at) row[at] = std::exp(row[at] - most);
    const double total = sum(row, count);
    for (std::size_t at = 0; at < count; ++at) row[at] = row[at] / total * share;
}

// A share of a softmax is off by itself times what its logit is off by. A word is exact, a patch is not, so that a
// cosine of the two has half of the error of one of two patches.
class Covers : public Objective {
  public:
    Covers(const Case &one, std::size_t patches)
        : rows_(matrix_of(one.quantities.at("asked"), patches, "asked")), words_(rows_.rows) {
        const Matrix similarity = one.similarity(patches);
        const Floats mask = floats(Case::line_of(one.quantities, "mask"));
        if (mask.size() != words_) throw misfit("mask must be [", words_, "], got [", mask.size(), "]");
        const double heat = number(one.rule, "words"), warmth = number(one.rule, "patches");
        const double asked = sum(mask.data(), mask.size()), count = asked > 1 ? asked : 1;
        for (std::size_t row = 0; row < words_; ++row) soften(rows_[row], patches, heat, mask[row] / count);
        rows_.values.insert(rows_.values.end(), similarity.values.begin(), similarity.values.end());
        rows_.rows += patches;
        const double share = number(one.rule, "alpha") / static_cast<double>(patches);
        for (std::size_t row = words_; row < rows_.rows; ++row) soften(rows_[row], patches, warmth, share);
        slope_.assign(rows_.rows, 1 / warmth);
        std::fill(slope_.begin(), slope_.begin() + static_cast<std::ptrdiff_t>(words_), 0.5 / heat);
        covered_.assign(rows_.rows, 0);
    }
    Floats gains() override {
        Floats gained(rows_.columns, 0);
        for (std::size_t row = 0; row < rows_.rows; ++row)
            for (std::size_t at = 0; at < gained.size(); ++at)
                gained[at] += clipped(rows_[row][at] - covered_[row], 0);
        return gained;
    }
    double noise(std::size_t pick) override {
        double off = 0;
        for (std::size_t row = 0; row < rows_.rows; ++row)  // an error may bring it over what is covered
            if (rows_[row][pick] > covered_[row] / 2) off += slope_[row] * (rows_[row][pick] + covered_[row]);
        return off + 1e-12;
    }
    void take(std::size_t pick) override {
        for (std::size_t row = 0; row < rows_.rows; ++row)
            covered_[row] = picked_ ? higher(covered_[row], rows_[row][pick]) : rows_[row][pick];
        picked_ = true;
    }

  private:
    Matrix rows_;
    std::size_t words_;
    Floats slope_, covered_;  // 0 without picks
    bool picked_ = false;
};

}  // namespace

std::unique_ptr<Objective> covers(const Case &one, std::size_t patches) {
    return std::make_unique<Covers>(one, patches);
}

}  // namespace edgeprune::parity
