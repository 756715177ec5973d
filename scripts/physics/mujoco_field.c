/* A shape field as a MuJoCo SDF plugin, from the header that `sinefield code` writes.

   sinefield code bowl.sine bowl.h
   M=$(python -c "import mujoco, os; print(os.path.dirname(mujoco.__file__))")
   cc -O3 -march=native -shared -fPIC -I. -I$M/include -DHEADER='"bowl.h"' -DFIELD=bowl -DBOX=BOWL_BOX \
      mujoco_field.c $M/libmujoco.so.* -lm -o bowl.so

   In Python: mujoco.mj_loadPluginLibrary("bowl.so"), before the model is read. In the model:

   <extension><plugin plugin="sinefield.bowl"><instance name="bowl"/></plugin></extension>
   <asset><mesh name="bowl"><plugin instance="bowl"/></mesh></asset>
   <geom type="sdf" mesh="bowl"><plugin instance="bowl"/></geom>

   Lengths are the field's own; gradients are made unit vectors. Within the object's box, grown by 2 %, the value is the
   network's: near the surface, where contacts are, the distance. */
#include HEADER

#include <mujoco/mjplugin.h>
#include <mujoco/mujoco.h>

#define JOINED(a, b) a##b
#define JOIN(a, b) JOINED(a, b)
#define TEXT(a) #a
#define QUOTE(a) TEXT(a)

static int no_state(const mjModel *m, int instance) {
    (void)m, (void)instance;
    return 0;
}

static int begin(const mjModel *m, mjData *d, int instance) {
    (void)m, (void)d, (void)instance;
    return 0;
}

static void again(const mjModel *m, mjtNum *state, void *data, int instance) {
    (void)m, (void)state, (void)data, (void)instance;
}

static void nothing(const mjModel *m, mjData *d, int instance, int capability) {
    (void)m, (void)d, (void)instance, (void)capability;
}

static mjtNum at(const mjtNum p[3], float grad[3]) {
    return JOIN(FIELD, _sdf)((float)p[0], (float)p[1], (float)p[2], grad);
}

static mjtNum distance(const mjtNum point[3], const mjData *d, int instance) {
    (void)d, (void)instance;
    return at(point, NULL);
}

static void gradient(mjtNum out[3], const mjtNum point[3], const mjData *d, int instance) {
    float grad[3];
    (void)d, (void)instance;
    at(point, grad);
    for (int a = 0; a < 3; a++) out[a] = grad[a];
    mju_normalize3(out);
}

static mjtNum still(const mjtNum point[3], const mjtNum *attributes) {
    (void)attributes;
    return at(point, NULL);
}

static void no_attributes(mjtNum attribute[], const char *name[], const char *value[]) {
    (void)attribute, (void)name, (void)value;
}

static void box(mjtNum aabb[6], const mjtNum *attributes) {
    const mjtNum corners[6] = BOX;
    (void)attributes;
    for (int a = 0; a < 3; a++) {
        aabb[a] = (corners[a] + corners[a + 3]) / 2;
        aabb[a + 3] = (corners[a + 3] - corners[a]) / 2;
    }
}

mjPLUGIN_LIB_INIT(FIELD) {
    mjpPlugin plugin;
    mjp_defaultPlugin(&plugin);
    plugin.name = "sinefield." QUOTE(FIELD);
    plugin.capabilityflags = mjPLUGIN_SDF;
    plugin.nstate = no_state;
    plugin.init = begin;
    plugin.reset = again;
    plugin.compute = nothing;
    plugin.sdf_distance = distance;
    plugin.sdf_gradient = gradient;
    plugin.sdf_staticdistance = still;
    plugin.sdf_attribute = no_attributes;
    plugin.sdf_aabb = box;
    mjp_registerPlugin(&plugin);
}
