struct __dynamic_buffer_offsetsTy0 {
    uint _0;
};
ConstantBuffer<__dynamic_buffer_offsetsTy0> __dynamic_buffer_offsets0: register(b0, space1);

struct State {
    uint zero;
    uint position;
    uint row0_;
    uint rows;
    uint ids;
    uint next;
    uint slot;
};

struct Params {
    uint width;
    float eps;
    float inverse_width;
};

static const float ACTIVATION_FLOOR = 8.6736174e-19;
static const float WEIGHT_FLOOR = 9.094947e-13;
static const float RESULT_FLOOR = 7.888609e-31;
static const uint THREADS = 64u;

ByteAddressBuffer state : register(t0);
cbuffer params : register(b1) { Params params; }
ByteAddressBuffer x_4 : register(t2);
ByteAddressBuffer weight : register(t3);
RWByteAddressBuffer out_ : register(u4);
groupshared float terms[64];

float seal(float x)
{
    uint _e4 = asuint(state.Load(0+__dynamic_buffer_offsets0._0));
    return asfloat((asuint(x) | _e4));
}

float add(float a, float b_1)
{
    const float _e3 = seal((a + b_1));
    return _e3;
}

float sub(float a_1, float b_2)
{
    const float _e3 = seal((a_1 - b_2));
    return _e3;
}

float mul_(float a_2, float b_3)
{
    const float _e3 = seal((a_2 * b_3));
    return _e3;
}

float flush(float x_1, float lowest)
{
    return ((abs(x_1) < lowest) ? 0.0 : x_1);
}

float settle(float x_2)
{
    const float _e2 = flush(x_2, RESULT_FLOOR);
    return _e2;
}

float rsqrt_(float x_3)
{
    float y = (float)0;

    const float _e2 = mul_(0.5, x_3);
    y = asfloat((1597463174u - (asuint(x_3) >> 1u)));
    float _e10 = y;
    float _e11 = y;
    float _e13 = y;
    const float _e14 = mul_(_e2, _e13);
    float _e15 = y;
    const float _e16 = mul_(_e14, _e15);
    const float _e17 = sub(0.5, _e16);
    const float _e18 = mul_(_e11, _e17);
    const float _e19 = add(_e10, _e18);
    y = _e19;
    float _e20 = y;
    float _e21 = y;
    float _e23 = y;
    const float _e24 = mul_(_e2, _e23);
    float _e25 = y;
    const float _e26 = mul_(_e24, _e25);
    const float _e27 = sub(0.5, _e26);
    const float _e28 = mul_(_e21, _e27);
    const float _e29 = add(_e20, _e28);
    y = _e29;
    float _e30 = y;
    float _e31 = y;
    float _e33 = y;
    const float _e34 = mul_(_e2, _e33);
    float _e35 = y;
    const float _e36 = mul_(_e34, _e35);
    const float _e37 = sub(0.5, _e36);
    const float _e38 = mul_(_e31, _e37);
    const float _e39 = add(_e30, _e38);
    y = _e39;
    float _e40 = y;
    float _e41 = y;
    float _e43 = y;
    const float _e44 = mul_(_e2, _e43);
    float _e45 = y;
    const float _e46 = mul_(_e44, _e45);
    const float _e47 = sub(0.5, _e46);
    const float _e48 = mul_(_e41, _e47);
    const float _e49 = add(_e40, _e48);
    y = _e49;
    float _e50 = y;
    return _e50;
}

float s8_tree(float4 a_3, float4 b_4)
{
    const float _e4 = add(a_3.x, b_4.x);
    const float _e7 = add(a_3.z, b_4.z);
    const float _e8 = add(_e4, _e7);
    const float _e11 = add(a_3.y, b_4.y);
    const float _e14 = add(a_3.w, b_4.w);
    const float _e15 = add(_e11, _e14);
    const float _e16 = add(_e8, _e15);
    return _e16;
}

float block_term(uint row, uint b_5)
{
    float4 lo = (0.0).xxxx;
    float4 hi = (0.0).xxxx;
    uint i_1 = 0u;

    uint _e5 = params.width;
    uint count = min(32u, (_e5 - (b_5 * 32u)));
    bool loop_init = true;
    while(true) {
        if (!loop_init) {
            uint _e53 = i_1;
            i_1 = (_e53 + 1u);
        }
        loop_init = false;
        uint _e18 = i_1;
        if ((_e18 < count)) {
        } else {
            break;
        }
        {
            uint _e23 = params.width;
            uint _e28 = i_1;
            float _e31 = asfloat(x_4.Load((((row * _e23) + (b_5 * 32u)) + _e28)*4));
            const float _e33 = flush(_e31, WEIGHT_FLOOR);
            uint _e34 = i_1;
            uint lane = (_e34 & 7u);
            const float _e37 = mul_(_e33, _e33);
            if ((lane < 4u)) {
                float _e42 = lo[lane];
                const float _e43 = add(_e42, _e37);
                lo[lane] = _e43;
            } else {
                float _e50 = hi[(lane - 4u)];
                const float _e51 = add(_e50, _e37);
                hi[(lane - 4u)] = _e51;
            }
        }
    }
    float4 _e55 = lo;
    float4 _e56 = hi;
    const float _e57 = s8_tree(_e55, _e56);
    return _e57;
}

uint naga_div(uint lhs, uint rhs) {
    return lhs / (rhs == 0u ? 1u : rhs);
}

[numthreads(64, 1, 1)]
void main(uint3 group : SV_GroupID, uint thread : SV_GroupIndex)
{
    float lane_sum = 0.0;
    uint tile = 0u;
    uint b = (uint)0;
    uint i = (uint)0;

    uint _e4 = asuint(state.Load(8+__dynamic_buffer_offsets0._0));
    uint row_1 = (_e4 + group.y);
    uint _e9 = params.width;
    uint blocks = naga_div((_e9 + 31u), 32u);
    bool loop_init_1 = true;
    while(true) {
        if (!loop_init_1) {
            uint _e46 = tile;
            tile = (_e46 + THREADS);
        }
        loop_init_1 = false;
        uint _e18 = tile;
        if ((_e18 < blocks)) {
        } else {
            break;
        }
        {
            uint _e20 = tile;
            if (((_e20 + thread) < blocks)) {
                uint _e25 = tile;
                const float _e27 = block_term(row_1, (_e25 + thread));
                terms[thread] = _e27;
            }
            GroupMemoryBarrierWithGroupSync();
            if ((thread < 8u)) {
                b = thread;
                bool loop_init_2 = true;
                while(true) {
                    if (!loop_init_2) {
                        uint _e43 = b;
                        b = (_e43 + 8u);
                    }
                    loop_init_2 = false;
                    uint _e31 = b;
                    uint _e33 = tile;
                    if ((_e31 < min(THREADS, (blocks - _e33)))) {
                    } else {
                        break;
                    }
                    {
                        float _e37 = lane_sum;
                        uint _e39 = b;
                        float _e41 = terms[_e39];
                        const float _e42 = add(_e37, _e41);
                        lane_sum = _e42;
                    }
                }
            }
            GroupMemoryBarrierWithGroupSync();
        }
    }
    if ((thread < 8u)) {
        float _e53 = lane_sum;
        terms[thread] = _e53;
    }
    GroupMemoryBarrierWithGroupSync();
    float _e56 = terms[0];
    float _e59 = terms[1];
    float _e62 = terms[2];
    float _e65 = terms[3];
    float _e69 = terms[4];
    float _e72 = terms[5];
    float _e75 = terms[6];
    float _e78 = terms[7];
    const float _e80 = s8_tree(float4(_e56, _e59, _e62, _e65), float4(_e69, _e72, _e75, _e78));
    float _e83 = params.inverse_width;
    const float _e84 = mul_(_e80, _e83);
    float _e87 = params.eps;
    const float _e88 = add(_e84, _e87);
    const float _e89 = rsqrt_(_e88);
    i = thread;
    bool loop_init_3 = true;
    while(true) {
        if (!loop_init_3) {
            uint _e124 = i;
            i = (_e124 + THREADS);
        }
        loop_init_3 = false;
        uint _e91 = i;
        uint _e94 = params.width;
        if ((_e91 < _e94)) {
        } else {
            break;
        }
        {
            uint _e99 = params.width;
            uint _e101 = i;
            float _e104 = asfloat(x_4.Load(((row_1 * _e99) + _e101)*4));
            const float _e106 = flush(_e104, WEIGHT_FLOOR);
            uint _e110 = params.width;
            uint _e112 = i;
            const float _e115 = mul_(_e106, _e89);
            uint _e117 = i;
            float _e119 = asfloat(weight.Load(_e117*4));
            const float _e121 = flush(_e119, WEIGHT_FLOOR);
            const float _e122 = mul_(_e115, _e121);
            const float _e123 = settle(_e122);
            out_.Store(((row_1 * _e110) + _e112)*4, asuint(_e123));
        }
    }
    return;
}
