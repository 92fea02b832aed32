/* The passes of a uniform grid, value = s (clip(rint(x/s - o), low, high) + o), over dense float32,
 * and those of weighted sums.
 *
 * Plain C99, called through ctypes by frameworks/core/kernels.py, which says how it is compiled:
 * without fast-math and without contraction, so that every value equals that of the composed
 * operations to the last bit. A tensor is rows x columns in the order in which it lies in memory;
 * row r has the step steps[r]. Sums are those of chunks in single precision (a few dozen terms a
 * vector lane), added up in double, in an order that does not depend on the number of threads.
 */

#include <math.h>
#include <stdlib.h>

#define PIECE 16384L /* elements of a thread's unit of work: 64 KiB of each tensor */
#define CHUNK 512L   /* elements of an inner loop: stays in the first-level cache */

/* x - shift(o) is x + o; for o = 0 it leaves the sign of a zero alone, which x + 0 would not. */
static inline float shift(float offset) { return offset == 0.0f ? 0.0f : -offset; }

/* As torch.clamp, also for NaN: comparisons with NaN are false. */
static inline float clip(float v, float low, float high)
{
    v = low > v ? low : v;
    return high < v ? high : v;
}

static inline float at_least(float step, float smallest)
{
    return step < smallest ? smallest : step;
}

static inline long least(long a, long b) { return a < b ? a : b; }

/* for piece in parallel: [row, start, end) of the piece. */
#define EACH_PIECE(BODY)                                                                        \
    do {                                                                                        \
        const long per_row = (columns + PIECE - 1) / PIECE, pieces = rows * per_row;            \
        if (threads > 1 && rows * columns > 2 * PIECE) {                                        \
            _Pragma("omp parallel for num_threads(threads) schedule(static)")                   \
            for (long piece = 0; piece < pieces; piece++) BODY                                  \
        } else {                                                                                \
            for (long piece = 0; piece < pieces; piece++) BODY                                  \
        }                                                                                       \
    } while (0)

#define PLACE                                                                                   \
    const long row = piece / per_row, first = piece % per_row * PIECE;                          \
    const long start = row * columns + first, count = least(PIECE, columns - first);

static void forward_piece(const float *restrict x, float *restrict y, long count, float s,
                          float low, float high, float offset)
{
    const float back = shift(offset);
    for (long i = 0; i < count; i++)
        y[i] = (rintf(clip(x[i] / s - offset, low, high)) - back) * s;
}

void grid_forward(const float *x, float *y, const float *steps, long rows, long columns, float low,
                  float high, float offset, float smallest, int threads)
{
    EACH_PIECE({
        PLACE
        forward_piece(x + start, y + start, count, at_least(steps[row], smallest), low, high, offset);
    });
}

/* Gradient to x (g inside the grid, else 0); returns the sum of g times LSQ's slope,
 * rint(v) - v inside and rint(v) + o outside, v = x/s - o. */
static double backward_piece(const float *restrict g, const float *restrict x, float *restrict gx,
                             long count, float s, float low, float high, float offset)
{
    const float back = shift(offset);
    double total = 0.0;
    for (long from = 0; from < count; from += CHUNK) {
        const long end = least(from + CHUNK, count);
        float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
        for (long i = from; i < end; i++) {
            const float v = x[i] / s - offset, c = clip(v, low, high), q = rintf(c);
            const int inside = c == v;
            gx[i] = inside ? g[i] : 0.0f;
            sum += g[i] * (q - (inside ? v : back));
        }
        total += sum;
    }
    return total;
}

static void masked_piece(const float *restrict g, const float *restrict x, float *restrict gx,
                         long count, float s, float low, float high, float offset)
{
    for (long i = 0; i < count; i++) {
        const float v = x[i] / s - offset;
        gx[i] = clip(v, low, high) == v ? g[i] : 0.0f;
    }
}

/* gs[row]: gradient to the steps, times scale; NULL if none is wanted. Returns 0, or 1 if out of
 * memory. */
int grid_backward(const float *g, const float *x, const float *steps, float *gx, float *gs,
                  long rows, long columns, float low, float high, float offset, float smallest,
                  double scale, int threads)
{
    if (!gs) {
        EACH_PIECE({
            PLACE
            masked_piece(g + start, x + start, gx + start, count, at_least(steps[row], smallest),
                         low, high, offset);
        });
        return 0;
    }
    const long blocks = (columns + PIECE - 1) / PIECE;
    double *sums = malloc((size_t)(rows * blocks + 1) * sizeof *sums);
    if (!sums) return 1;
    EACH_PIECE({
        PLACE
        sums[piece] = backward_piece(g + start, x + start, gx + start, count,
                                     at_least(steps[row], smallest), low, high, offset);
    });
    for (long row = 0; row < rows; row++) {
        double sum = 0.0;
        for (long i = 0; i < blocks; i++) sum += sums[row * blocks + i];
        gs[row] = steps[row] <= smallest ? 0.0f : (float)(sum * scale);
    }
    free(sums);
    return 0;
}

/* The weighted sum of K grids, y = sum_k p[k] s[k][row] (clip(...) + o[k]); grids holds low, high
 * and offset of each. Steps are positive. */
static void composite_forward_piece(const float *restrict x, float *restrict y, long count,
                                    const float *steps, long rows, const float *p,
                                    const float *grids, long branches)
{
    for (long from = 0; from < count; from += CHUNK) {
        const long n = least(CHUNK, count - from);
        const float *restrict in = x + from;
        float *restrict out = y + from;
        for (long k = 0; k < branches; k++) {
            const float s = steps[k * rows], share = s * p[k];
            const float low = grids[3 * k], high = grids[3 * k + 1], offset = grids[3 * k + 2];
            const float back = shift(offset);
            if (k == 0)
                for (long i = 0; i < n; i++)
                    out[i] = (rintf(clip(in[i] / s - offset, low, high)) - back) * share;
            else
                for (long i = 0; i < n; i++)
                    out[i] += (rintf(clip(in[i] / s - offset, low, high)) - back) * share;
        }
    }
}

void composite_forward(const float *x, float *y, const float *steps, const float *p,
                       const float *grids, long branches, long rows, long columns, int threads)
{
    EACH_PIECE({
        PLACE
        composite_forward_piece(x + start, y + start, count, steps + row, rows, p, grids, branches);
    });
}

/* codes[k] += sum g (q + o), slopes[k] += sum g times LSQ's slope; gx = g sum_k p[k] inside_k. */
static void composite_backward_piece(const float *restrict g, const float *restrict x,
                                     float *restrict gx, long count, const float *steps, long rows,
                                     const float *p, const float *grids, long branches,
                                     double *codes, double *slopes)
{
    for (long k = 0; k < branches; k++) codes[k] = slopes[k] = 0.0;
    for (long from = 0; from < count; from += CHUNK) {
        const long n = least(CHUNK, count - from);
        const float *restrict in = x + from, *restrict slope = g + from;
        float *restrict out = gx + from;
        for (long i = 0; i < n; i++) out[i] = 0.0f;
        for (long k = 0; k < branches; k++) {
            const float s = steps[k * rows], share = p[k];
            const float low = grids[3 * k], high = grids[3 * k + 1], offset = grids[3 * k + 2];
            const float back = shift(offset);
            float code = 0.0f, rest = 0.0f;
#pragma omp simd reduction(+ : code, rest)
            for (long i = 0; i < n; i++) {
                const float v = in[i] / s - offset, c = clip(v, low, high), q = rintf(c);
                const int inside = c == v;
                out[i] += inside ? share : 0.0f;
                code += slope[i] * (q - back);
                rest += slope[i] * (q - (inside ? v : back));
            }
            codes[k] += code;
            slopes[k] += rest;
        }
        for (long i = 0; i < n; i++) out[i] *= slope[i];
    }
}

/* gp[k]: gradient to the shares; gs[k][row]: to the steps, times p[k] scale[k]. */
int composite_backward(const float *g, const float *x, const float *steps, const float *p,
                       const float *grids, const float *scale, float *gx, float *gp, float *gs,
                       long branches, long rows, long columns, int threads)
{
    const long blocks = (columns + PIECE - 1) / PIECE, size = rows * blocks * branches + 1;
    double *codes = malloc((size_t)size * 2 * sizeof *codes), *slopes = codes + size;
    if (!codes) return 1;
    EACH_PIECE({
        PLACE
        composite_backward_piece(g + start, x + start, gx + start, count, steps + row, rows, p,
                                 grids, branches, codes + piece * branches,
                                 slopes + piece * branches);
    });
    for (long k = 0; k < branches; k++) {
        double total = 0.0;
        for (long row = 0; row < rows; row++) {
            double code = 0.0, slope = 0.0;
            for (long i = row * blocks; i < (row + 1) * blocks; i++) {
                code += codes[i * branches + k];
                slope += slopes[i * branches + k];
            }
            total += code * steps[k * rows + row];
            gs[k * rows + row] = (float)(slope * p[k] * scale[k]);
        }
        gp[k] = (float)total;
    }
    free(codes);
    return 0;
}

/* a b + c, rounded as torch's add with alpha does: once where the processor can. */
#ifdef FP_FAST_FMAF
#define TERM(a, b, c) fmaf(a, b, c)
#else
#define TERM(a, b, c) ((a) * (b) + (c))
#endif

/* y = sum_k p[k] parts[k]. */
void mix_forward(const float *const *parts, const float *p, float *y, long branches, long columns,
                 int threads)
{
    const long rows = 1;
    EACH_PIECE({
        PLACE
        for (long from = start; from < start + count; from += CHUNK) {
            const long n = least(CHUNK, start + count - from);
            float *restrict out = y + from;
            for (long k = 0; k < branches; k++) {
                const float *restrict in = parts[k] + from;
                const float share = p[k];
                if (k == 0)
                    for (long i = 0; i < n; i++) out[i] = in[i] * share;
                else
                    for (long i = 0; i < n; i++) out[i] = TERM(in[i], share, out[i]);
            }
        }
    });
}

/* grads[k] = p[k] g. */
void mix_backward(const float *g, const float *p, float *const *grads, long branches, long columns,
                  int threads)
{
    const long rows = 1;
    EACH_PIECE({
        PLACE
        for (long from = start; from < start + count; from += CHUNK) {
            const long n = least(CHUNK, start + count - from);
            const float *restrict in = g + from;
            for (long k = 0; k < branches; k++) {
                float *restrict out = grads[k] + from;
                const float share = p[k];
                for (long i = 0; i < n; i++) out[i] = in[i] * share;
            }
        }
    });
}
