#include "parity/objectives.hpp"

#include <algorithm>
#include <cmath>
#include <functional>
#include <utility>

namespace edgeprune::parity {

namespace {

// Each column over the picks so far, brought up to date with every pick.
class OverPicks {
  public:
    explicit OverPicks(std::function<double(double, double)> together) : together_(std::move(together)) {}
    void take(const double *row, std::size_t size) {
        if (values.empty()) values.assign(row, row + size);
        else std::transform(values.begin(), values.end(), row, values.begin(), together_);
    }
    Floats values;  // empty without picks

  private:
    std::function<double(double, double)> together_;
};

class MaxMin : public Objective {
  public:
    MaxMin(const Case &one, std::size_t patches) : distance_(one.similarity(patches)), nearest_(lower) {
        for (double &value : distance_.values) value = 1 - value;
        first_.assign(patches, INFINITE);
        for (std::size_t row = 0; row < patches; ++row)
            for (std::size_t column = 0; column < patches; ++column)
                if (row != column) first_[column] = lower(first_[column], distance_[row][column]);
        for (double &value : first_) value = value == INFINITE ? 0 : value;
    }
    Floats gains() override { return nearest_.values.empty() ? first_ : nearest_.values; }
    void take(std::size_t pick) override { nearest_.take(distance_[pick], distance_.columns); }

  private:
    Matrix distance_;
    OverPicks nearest_;
    Floats first_;
};

class World : public Objective {
  public:
    World(const Case &one, std::size_t patches)
        : balance_(number(one.rule, "balance")), seen_(one.similarity(patches)), away_(patches, patches),
          attended_(one.of_patches("attention", patches)), nearest_(lower) {
        for (double &value : seen_.values) value = (1 - balance_) * (1 - value);
        const View &places = one.quantities.at("xyz");
        if (places.shape.size() != 2 || places.shape[0] != static_cast<std::int64_t>(patches))
            throw misfit("xyz must be [", patches, ", 3], got ", shown(places.shape));
        const Floats xyz = floats(places);
        const auto width = static_cast<std::size_t>(places.shape[1]);
        Floats squares(width);
        for (std::size_t row = 0; row < patches; ++row)
            for (std::size_t column = 0; column < patches; ++column) {
                for (std::size_t at = 0; at < width; ++at) {
                    const double apart = xyz[row * width + at] - xyz[column * width + at];
                    squares[at] = apart * apart;
                }
                away_[row][column] = std::sqrt(sum(squares.data(), width));
            }
    }
    Floats gains() override { return nearest_.values.empty() ? attended_ : nearest_.values; }
    double noise(std::size_t) override { return nearest_.values.empty() ? 0 : 1; }
    double measured(std::size_t pick) override { return nearest_.values.empty() ? attended_[pick] : 0; }
    void take(std::size_t pick) override {
        Floats row(attended_.size());
        if (nearest_.values.empty()) {
            const double most = highest(Floats(away_[pick], away_[pick] + row.size()));
            far_ = 1e-12 > most ? 1e-12 : most;
        }
        for (std::size_t at = 0; at < row.size(); ++at)
            row[at] = balance_ * away_[pick][at] / far_ + seen_[pick][at];
        nearest_.take(row.data(), row.size());
    }

  private:
    double balance_, far_ = 1;
    Matrix seen_, away_;
    Floats attended_;
    OverPicks nearest_;
};

class MaxSum : public Objective {
  public:
    MaxSum(const Case &one, std::size_t patches)
        : similarity_(one.similarity(patches)), first_(one.of_patches("first", patches)), total_(std::plus<>()) {}
    Floats gains() override {
        if (picks_ == 0) return first_;
        Floats gained = total_.values;
        for (double &value : gained) value = -value;
        return gained;
    }
    double noise(std::size_t) override { return std::sqrt(static_cast<double>(picks_)); }
    double measured(std::size_t pick) override { return picks_ == 0 ? first_[pick] : 0; }
    void take(std::size_t pick) override { ++picks_, total_.take(similarity_[pick], similarity_.columns); }

  private:
    Matrix similarity_;
    Floats first_;
    OverPicks total_;
    std::size_t picks_ = 0;
};

// An incremental Cholesky of own x I + kernel in float64, without what is its own; what has `smallest` left or less is
// no direction.
class Eliminated : public Objective {
  public:
    Eliminated(Matrix kernel, Floats diagonal, double smallest, double own)
        : kernel_(std::move(kernel)), left_(std::move(diagonal)), smallest_(smallest), own_(own) {}
    Floats gains() override { return left_; }
    void take(std::size_t pick) override {
        Floats row(left_.size(), 0);
        const double itself = left_[pick] + own_;
        if (itself > smallest_) {
            if (!(itself > 0)) throw misfit("expected a positive input");
            for (const Floats &done : factor_)
                for (std::size_t at = 0; at < row.size(); ++at) row[at] += done[pick] * done[at];
            for (std::size_t at = 0; at < row.size(); ++at)
                row[at] = (kernel_[pick][at] - row[at]) / std::sqrt(itself);
        }
        for (std::size_t at = 0; at < row.size(); ++at) left_[at] -= row[at] * row[at];
        factor_.push_back(std::move(row));
    }

  protected:
    Matrix kernel_;
    std::vector<Floats> factor_;
    Floats left_;
    double smallest_, own_;
};

class Determinant : public Eliminated {
  public:
    Determinant(const Case &one, std::size_t patches)
        : Eliminated(one.similarity(patches), Floats(patches, 1), number(one.rule, "smallest"), 0) {}
};

// What an r of nothing is taken for, of an error of one: it is that error alone
constexpr double UNSURE = 1e-2;

// A relevance is a cosine times the text's length, and its error becomes one of r times that over the spread.
class Relevant : public Eliminated {
  public:
    Relevant(const Case &one, std::size_t patches)
        : Eliminated(one.similarity(patches), {}, number(one.rule, "smallest"), 0),
          r_(one.of_patches("relevance", patches)), weight_(number(one.rule, "weight")),
          length_(highest(slice(floats(Case::line_of(one.quantities, "length")), 0, 1))) {
        const double most = highest(r_), floor = number(one.rule, "flat") * length_;
        spread_ = most - lowest(r_);
        spread_ = floor > spread_ ? floor : spread_;
        spread_ = 1e-12 > spread_ ? 1e-12 : spread_;
        for (double &r : r_) r = 1 - (most - r) / spread_;
        for (std::size_t row = 0; row < patches; ++row) {
            left_.push_back(diagonal(row));
            for (std::size_t at = 0; at < patches; ++at) kernel_[row][at] *= (1 - weight_) + weight_ * r_[row] * r_[at];
        }
    }
    double noise(std::size_t pick) override {
        const double off = length_ / spread_, least = UNSURE * off, r = std::abs(r_[pick]);
        return diagonal(pick) + 2 * weight_ * (least > r ? least : r) * off;
    }

  private:
    double diagonal(std::size_t at) const { return (1 - weight_) + weight_ * r_[at] * r_[at]; }

    Floats r_;
    double weight_, length_, spread_;
};

class Volume : public Eliminated {
  public:
    Volume(const Case &one, std::size_t patches)
        : Eliminated(square(one.quantities.at("products"), patches, "products"), {}, 0, 1) {
        for (std::size_t at = 0; at < patches; ++at) left_.push_back(kernel_[at][at]);
        diagonal_ = left_;
    }
    // A row squared is off by what is left of it times what it was.
    double noise(std::size_t pick) override { return std::sqrt(diagonal_[pick] * clipped(left_[pick], 0)); }

  private:
    Floats diagonal_;
};

class Coverage : public Objective {
  public:
    Coverage(const Case &one, std::size_t patches)
        : similarity_(one.similarity(patches)), saliency_(one.of_patches("saliency", patches)), covered_(higher),
          noise_(std::sqrt(static_cast<double>(patches)) * highest(saliency_)) {}
    Floats gains() override {
        Floats covered = covered_.values.empty() ? Floats(saliency_.size(), 0) : covered_.values, line(covered.size());
        for (double &value : covered) value = clipped(value, 0);
        gained_.resize(saliency_.size());
        for (std::size_t row = 0; row < saliency_.size(); ++row) {
            for (std::size_t at = 0; at < line.size(); ++at) line[at] = clipped(similarity_[row][at] - covered[at], 0);
            gained_[row] = sum(line.data(), line.size()) * saliency_[row];
        }
        return gained_;
    }
    double noise(std::size_t) override { return noise_; }
    double measured(std::size_t pick) override { return gained_[pick]; }
    void take(std::size_t pick) override { covered_.take(similarity_[pick], similarity_.columns); }

  private:
    Matrix similarity_;
    Floats saliency_, gained_;
    OverPicks covered_;
    double noise_;
};

// Measured values stretched to 0..1; and what a relative error of 1 of each of them, of the least and of the largest
// would come to there.
struct Stretched {
    Floats values, measured;
    Stretched(const Floats &given, const std::function<double(double)> &divisor) : values(given), measured(given) {
        const double least = lowest(given), most = highest(given), spread = divisor(most - least);
        for (std::size_t at = 0; at < given.size(); ++at) {
            values[at] = (given[at] - least) / spread;
            measured[at] = (given[at] + least + values[at] * (most + least)) / spread;
        }
    }
};

class Relevance : public Objective {
  public:
    Relevance(const Case &one, std::size_t patches)
        : similarity_(one.similarity(patches)), alike_(higher), balance_(number(one.rule, "balance")),
          stretched_(one.of_patches("attention", patches),
                     [&](double spread) { return spread + number(one.rule, "smallest"); }) {}
    Floats gains() override {
        Floats wanted = stretched_.values;
        for (std::size_t at = 0; at < wanted.size(); ++at) {
            wanted[at] = balance_ * wanted[at];
            if (!alike_.values.empty()) wanted[at] -= (1 - balance_) * alike_.values[at];
        }
        return wanted;
    }
    double measured(std::size_t pick) override { return balance_ * stretched_.measured[pick]; }
    void take(std::size_t pick) override { alike_.take(similarity_[pick], similarity_.columns); }

  private:
    Matrix similarity_;
    OverPicks alike_;
    double balance_;
    Stretched stretched_;
};

class Distance : public Objective {
  public:
    Distance(const Case &one, std::size_t patches)
        : similarity_(one.similarity(patches)), alike_(higher), stretched_(one.of_patches("sensitivity", patches),
                                                                           divisor(one, patches)) {}
    Floats gains() override { return times_distance(stretched_.values); }
    // A sensitivity is of one row, a cosine of two.
    double noise(std::size_t pick) override {
        return stretched_.values[pick] + times_distance(stretched_.measured[pick], pick) / 2;
    }
    void take(std::size_t pick) override { alike_.take(similarity_[pick], similarity_.columns); }

  private:
    static std::function<double(double)> divisor(const Case &one, std::size_t patches) {
        const double flat = number(one.rule, "flat") * highest(one.of_patches("sensitivity", patches));
        const double floor = flat < 1e-30 ? 1e-30 : flat;
        return [floor](double spread) { return spread < floor ? floor : spread; };
    }
    double times_distance(double value, std::size_t at) const {
        return alike_.values.empty() ? value : value * (1 - alike_.values[at]);
    }
    Floats times_distance(Floats values) const {
        for (std::size_t at = 0; at < values.size(); ++at) values[at] = times_distance(values[at], at);
        return values;
    }

    Matrix similarity_;
    OverPicks alike_;
    Stretched stretched_;
};

class Apart : public Objective {
  public:
    Apart(const Case &one, std::size_t patches)
        : similarity_(one.similarity(patches)), alike_(higher), saliency_(one.of_patches("saliency", patches)) {}
    Floats gains() override {
        gained_ = saliency_;
        for (std::size_t at = 0; !alike_.values.empty() && at < gained_.size(); ++at)
            gained_[at] *= 1 - alike_.values[at];
        return gained_;
    }
    double noise(std::size_t pick) override { return alike_.values.empty() ? 0 : saliency_[pick]; }
    double measured(std::size_t pick) override { return gained_[pick]; }
    void take(std::size_t pick) override { alike_.take(similarity_[pick], similarity_.columns); }

  private:
    Matrix similarity_;
    OverPicks alike_;
    Floats saliency_, gained_;
};

// What is left of the importance, and what errors of a cosine and of attention become in it, pick by pick.
class Suppression : public Objective {
  public:
    Suppression(const Case &one, std::size_t patches)
        : similarity_(one.similarity(patches)), width_(number(one.rule, "width")),
          stretched_(one.of_patches("attention", patches),
                     [&](double spread) { return spread + number(one.rule, "smallest"); }),
          noise_(patches, 0) {}
    Floats gains() override { return stretched_.values; }
    double noise(std::size_t pick) override { return noise_[pick]; }
    double measured(std::size_t pick) override { return stretched_.measured[pick]; }
    bool falls() const override { return true; }
    void take(std::size_t pick) override {
        Floats &left = stretched_.values, &relative = stretched_.measured;
        const double had = left[pick], noisy = noise_[pick], off = relative[pick];
        for (std::size_t at = 0; had > 0 && at < left.size(); ++at) {
            const double away = 1 - similarity_[pick][at], pull = std::exp(-width_ * (away * away));
            left[at] = left[at] - pull * had;
            // The nearer two rows are, the less does an error of one change their cosine.
            const double far = std::abs(away), slope = 2 * width_ * far * pull * std::sqrt(2 * far > 1 ? 1 : 2 * far);
            noise_[at] = noise_[at] + slope * had + pull * noisy;
            relative[at] = relative[at] + pull * off;
        }
    }

  private:
    Matrix similarity_;
    double width_;
    Stretched stretched_;
    Floats noise_;
};

class Pivots : public Objective {
  public:
    Pivots(const Case &one, std::size_t patches)
        : similarity_(one.similarity(patches)), length_(one.of_patches("length", patches)),
          pivots_(std::max<std::int64_t>(0, whole_number(one.rule, "pivots"))),
          quotas_(whole_numbers(one.rule, "quotas")) {
        const double most = highest(length_), scale = most < 1e-12 ? 1e-12 : most;
        for (double &value : length_) value /= scale;
    }
    Floats gains() override {
        const auto behind = static_cast<std::int64_t>(picks_.size()) - pivots_;
        if (behind < 0) return length_;
        Floats away(similarity_.columns);
        const double *row = similarity_[picks_[place(turn(behind), picks_.size())]];
        std::transform(row, row + away.size(), away.begin(), [](double cosine) { return 1 - cosine; });
        return away;
    }
    void take(std::size_t pick) override { picks_.push_back(pick); }

  private:
    // Whose turn it is: each pivot has as many as its quota, one after the other.
    std::int64_t turn(std::int64_t at) const {
        for (std::size_t pivot = 0; pivot < quotas_.size(); ++pivot) {
            const std::int64_t quota = std::max<std::int64_t>(0, quotas_[pivot]);
            if (at < quota) return static_cast<std::int64_t>(pivot);
            at -= quota;
        }
        throw misfit("list index out of range");
    }

    Matrix similarity_;
    Floats length_;
    std::int64_t pivots_;
    Places quotas_;
    std::vector<std::size_t> picks_;
};

}  // namespace

std::unique_ptr<Objective> objective_of(const Case &one, std::size_t patches) {
    const std::string name = text(one.rule, "objective");
    if (name == "max-min") return std::make_unique<MaxMin>(one, patches);
    if (name == "world") return std::make_unique<World>(one, patches);
    if (name == "max-sum") return std::make_unique<MaxSum>(one, patches);
    if (name == "determinant") return std::make_unique<Determinant>(one, patches);
    if (name == "relevant") return std::make_unique<Relevant>(one, patches);
    if (name == "covers") return covers(one, patches);
    if (name == "volume") return std::make_unique<Volume>(one, patches);
    if (name == "coverage") return std::make_unique<Coverage>(one, patches);
    if (name == "relevance") return std::make_unique<Relevance>(one, patches);
    if (name == "distance") return std::make_unique<Distance>(one, patches);
    if (name == "apart") return std::make_unique<Apart>(one, patches);
    if (name == "suppression") return std::make_unique<Suppression>(one, patches);
    if (name == "leading") return leading(one, patches);
    if (name == "pivots") return std::make_unique<Pivots>(one, patches);
    throw misfit("'", name, "'");
}

}  // namespace edgeprune::parity
